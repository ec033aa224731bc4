"""Pictures: planes lie as their letters say, at true aspect; sheets; nothing of the patient."""

import csv
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from PIL import Image

import radnet_lake
from radnet_lake.cli.app import main
from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.phantom.phantom import PhantomConfig, phantom
from radnet_lake.volume import show as show_module
from radnet_lake.volume.planes import lay_planes, name_direction
from radnet_lake.volume.show import ShowConfig, show

STANDARD = {
    "axial": ("RLPA", [(0, 0, 4), (0, 2, 0), (1, 0, 0)]),
    "coronal": ("RLFH", [(0, 4, 0), (0, 0, -2), (1, 0, 0)]),
    "sagittal": ("APFH", [(4, 0, 0), (0, 0, -2), (0, 1, 0)]),
}
"""Letters at left, right, bottom, top; steps of slices, rows, columns (PS3.3 C.7.6.2.1.1)."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, ray_local: str) -> str:
    """A labelled lake of a phantom; beside it `bare`, the same before labelling."""
    folder = tmp_path_factory.mktemp("show")
    phantom(PhantomConfig(out=str(folder / "archive"), patients=1, seed=3, size=48))
    lake = str(folder / "lake")
    harvest(HarvestConfig(sources=(str(folder / "archive"),), lake=lake, phi="keep"))
    shutil.copytree(lake, folder / "bare")
    label(LabelConfig(lake=lake))
    return lake


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written from now on."""
    drawn: list[Figure] = []
    write = show_module.write_picture

    def keep(figure: Figure, path: Path) -> None:
        write(figure, path)
        drawn.append(figure)

    monkeypatch.setattr(show_module, "write_picture", keep)
    return drawn


@pytest.fixture(scope="module")
def connection(lake: str) -> Iterator[duckdb.DuckDBPyConnection]:
    with radnet_lake.connect(lake) as connection:
        yield connection


def find_series(connection: duckdb.DuckDBPyConnection, condition: str) -> str:
    sql = f"select SeriesInstanceUID from series where {condition} order by 1"
    return str(connection.sql(sql).fetchall()[0][0])


def read_texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def read_letters(axes: Any) -> str:
    """The nearest axis at left, right, bottom, top."""
    found = {}
    for text in axes.texts:
        x, y = text.xy
        found["left" if x == 0 else "right" if x == 1 else "bottom" if y == 0 else "top"] = (
            text.get_text()[0]
        )
    return "".join(found[side] for side in ("left", "right", "bottom", "top"))


@pytest.mark.parametrize("view", STANDARD)
def test_slices_of_a_standard_view_lie_as_they_are_stored(view: str) -> None:
    letters, steps = STANDARD[view]
    values = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    first = np.array([10.0, -20, 30])
    middle = first + np.array([2, 3, 3]) @ np.array(steps)
    planes = lay_planes(values, first, np.array(steps, float), middle)
    assert (planes[0].pixels == values[2]).all()
    assert "".join(planes[0].letters) == letters
    assert planes[0].edges_mm == (-3.5, 3.5, 5.0, -7.0)
    assert planes[0].title == f"{view}: slice 3 of 5"
    # The other two hang as radiologists hang them, whatever the view of the slices.
    hung = {p.title.split(":")[0]: "".join(p.letters) for p in planes}
    assert hung == {name: stated for name, (stated, _) in STANDARD.items()}


def test_oblique_directions_get_the_letters_of_all_near_axes() -> None:
    assert name_direction(np.array([0.0, 0, -3])) == "F"
    assert name_direction(np.array([-0.5, 0.8, 0.0])) == "PR"
    assert name_direction(np.array([0.6, -0.3, 0.74])) == "HLA"
    assert name_direction(np.array([0.05, -0.99, 0.1])) == "A"


@pytest.mark.parametrize("seed", range(12))
def test_what_lies_towards_a_letter_in_the_patient_is_drawn_towards_it(seed: int) -> None:
    generator = np.random.default_rng(seed)
    turned = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    if seed < 6:
        turned = np.eye(3)[list(list(itertools.permutations(range(3)))[seed])]
        turned = turned * generator.choice([-1, 1], (3, 1))
    steps = turned * [[3.0], [1.5], [0.7]]
    first, middle = generator.normal(size=3) * 100, np.array([4, 5, 6])
    for across, axis, shift in itertools.product(range(3), range(3), (-2, 3)):
        if axis == across:
            continue
        place = middle.copy()
        place[axis] += shift
        values = np.zeros((9, 11, 13))
        values[tuple(place)] = 1
        plane = lay_planes(values, first, steps, first + middle @ steps)[across]
        row, column = np.argwhere(plane.pixels == 1)[0]
        left, right, bottom, top = plane.edges_mm
        x = left + (column + 0.5) / plane.pixels.shape[1] * (right - left)
        y = top + (row + 0.5) / plane.pixels.shape[0] * (bottom - top)
        away = [-x, x, y, -y]
        side = int(np.argmax(away))
        assert plane.letters[side] == name_direction(shift * steps[axis])
        assert sorted(away) == pytest.approx([-max(away), 0, 0, max(away)], abs=1e-9)
        assert max(away) == pytest.approx(np.linalg.norm(shift * steps[axis]))


@pytest.mark.parametrize("view", STANDARD)
def test_picture_is_at_true_aspect_and_one_scale_before_and_after(
    lake: str,
    connection: duckdb.DuckDBPyConnection,
    figures: list[Figure],
    tmp_path: Path,
    view: str,
) -> None:
    series = find_series(connection, f"excluded_by is null and \"view\" = '{view}'")
    assert main(["show", series, "--lake", lake, "-o", str(tmp_path / "out.png")]) == 0
    (figure,) = figures
    height, width = imread(tmp_path / "out.png").shape[:2]
    assert (width, height) == pytest.approx(figure.get_size_inches() * figure.dpi, abs=1)
    scales, extents = [], []
    for axes in figure.axes:
        box, (x0, x1), (y0, y1) = axes.get_window_extent(), axes.get_xlim(), axes.get_ylim()
        scales += [box.width / abs(x1 - x0), box.height / abs(y1 - y0)]
        extents.append(axes.images[0].get_extent())
    assert len(figure.axes) == 6
    assert scales == pytest.approx([scales[0]] * 6 * 2, rel=1e-6)
    assert read_letters(figure.axes[0]) == read_letters(figure.axes[3]) == STANDARD[view][0]
    # In plane, the volume covers as much of the patient after as before.
    assert extents[3] == pytest.approx(extents[0], abs=1e-6)
    rows, columns, spacing = connection.sql(
        "select any_value(Rows), any_value(Columns), any_value(PixelSpacing) from instances"
        " where SeriesInstanceUID = ?", params=[series],
    ).fetchall()[0]  # fmt: skip
    left, right, bottom, top = extents[0]
    assert (bottom - top, right - left) == pytest.approx((rows * spacing[0], columns * spacing[1]))
    assert figure.axes[3].images[0].get_array().shape == (192, 192)


def test_picture_says_labels_with_rules_spacing_and_the_greys_shown(
    lake: str, connection: duckdb.DuckDBPyConnection, figures: list[Figure], tmp_path: Path
) -> None:
    series = find_series(connection, "excluded_by is null and contrast and slice_count < 48")
    list(show(ShowConfig(output=str(tmp_path / "a.png"), series=series, lake=lake)))
    row = connection.sql(
        "from series where SeriesInstanceUID = ?", params=[series]
    ).to_arrow_table().to_pylist()[0]  # fmt: skip
    text = "\n".join(read_texts(figures[0]))
    for name in ("sequence", "view", "contrast", "coverage", "time_series"):
        assert f"[{row[f'{name}_rule']}]" in text
    assert f"sequence: {row['sequence']} " in text
    assert "contrast: yes" in text
    assert "included: nothing excludes it" in text
    n, spacing = row["slice_count"], row["slice_spacing_mm"]
    assert f"before: {n} x " in text
    assert f"voxels of {spacing:.3g} x " in text
    assert f"after: 48 x 192 x 192 voxels of {row['effective_spacing_mm']:.3g} x " in text
    before = (48 - n) // 2
    assert f"blank slices: {before} before, {48 - n - before} behind" in text
    assert "1st and 99th percentile" in text


def test_excluded_and_unlabelled_series_are_drawn_and_say_so(
    lake: str, connection: duckdb.DuckDBPyConnection, figures: list[Figure], tmp_path: Path
) -> None:
    out = str(tmp_path / "a.png")
    crowded = find_series(connection, "repeats_max > 1 and list_contains(exclusions, 'geom')")
    dynamic = find_series(connection, "time_series")
    single = find_series(
        connection, "slice_count = 1 and not list_contains(exclusions, 'not_image')"
    )
    for series in (crowded, dynamic, single):
        list(show(ShowConfig(output=out, series=series, lake=lake)))
    texts = ["\n".join(read_texts(figure)) for figure in figures]
    assert "[EXC-GEOM]" in texts[0]
    assert "preprocess makes no volume of it, several_frames_at_a_place" in texts[0]
    assert "[EXC-TIME]" in texts[1]
    assert "before: 1 x " in texts[2]
    assert "[EXC-FEW]" in texts[2]
    bare = str(Path(lake).with_name("bare"))
    list(show(ShowConfig(output=out, series=single, lake=bare)))
    assert "not labelled yet" in "\n".join(read_texts(figures[3]))


def test_sheet_has_every_series_once_and_a_box_for_what_has_no_volume(
    lake: str,
    connection: duckdb.DuckDBPyConnection,
    figures: list[Figure],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(show_module, "PAGE_SERIES", 4)
    where = "list_contains(exclusions, 'not_image') or excluded_by is null"
    arguments = ["--lake", lake, "--where", where, "-o", str(tmp_path / "s.png"), "--limit", "7"]
    assert main(["show", *arguments]) == 0
    found = {row[0] for row in connection.sql(
        f"select SeriesInstanceUID from series where {where}").fetchall()}  # fmt: skip
    stated = capsys.readouterr().out.splitlines()
    named = [line.split()[1] for line in stated if line.startswith("  ")]
    assert len(set(named)) == 7
    assert set(named) <= found
    assert stated[-1].startswith(f"{len(found) - 7} more series are left out")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["s-2.png", "s.png"]
    assert [len(figure.axes) for figure in figures] == [4, 3]
    report = find_series(connection, "Modality = 'SR'")
    where = f"SeriesInstanceUID = '{report}'"
    list(show(ShowConfig(output=str(tmp_path / "r.png"), where=where, lake=lake)))
    assert figures[-1].axes[0].texts[0].get_text() == "no_frames"
    assert not figures[-1].axes[0].images
    assert main(["show", report, "--lake", lake, "-o", str(tmp_path / "x.png")]) == 1
    assert "no_frames" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_no_name_description_or_path_is_in_any_picture(
    lake: str, connection: duckdb.DuckDBPyConnection, figures: list[Figure], tmp_path: Path
) -> None:
    out = str(tmp_path / "a.png")
    list(show(ShowConfig(output=out, lake=lake)))
    series = find_series(connection, "excluded_by is null")
    list(show(ShowConfig(output=out, series=series, lake=lake)))
    assert set(Image.open(out).info) <= {"Software", "dpi"}
    text = "\n".join(itertools.chain.from_iterable(map(read_texts, figures))).lower()
    truth = Path(lake).with_name("archive.truth.csv")
    with truth.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    secret = {row[name] for row in rows for name in ("SeriesDescription", "PatientID")}
    secret |= {row["SeriesInstanceUID"] for row in rows}
    names = connection.sql(
        "select distinct header->>'$.00100010.Value[0].Alphabetic' from series_headers"
    ).fetchall()
    assert any(name for (name,) in names)
    secret |= {part for (name,) in names if name for part in name.split("^")}
    # A rule of ours says localizer too.
    assert {word for word in secret if len(word) > 3 and word.lower() in text} <= {"localizer"}
    assert str(Path(lake).parent) not in text


def test_nifti_lies_where_the_patient_lay(
    lake: str, connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    # As many blank slices before as behind.
    series = find_series(connection, "excluded_by is null and slice_count % 2 = 0")
    out = tmp_path / "a.nii.gz"
    arguments = ["--rows", "96", "--columns", "80", "-o", str(out)]
    assert main(["show", series, "--lake", lake, *arguments]) == 0
    image = nib.load(out)
    assert sorted(image.shape) == [48, 80, 96]
    assert image.get_data_dtype() == np.uint8
    rows = connection.sql(
        "select ImagePositionPatient, ImageOrientationPatient, PixelSpacing, Rows, Columns"
        " from instances where SeriesInstanceUID = ?", params=[series],
    ).fetchall()  # fmt: skip
    position = np.mean([row[0] for row in rows], axis=0)
    along, downwards = np.array(rows[0][1][:3]), np.array(rows[0][1][3:])
    (row_mm, column_mm), height, width = rows[0][2:]
    middle = position + along * column_mm * (width - 1) / 2 + downwards * row_mm * (height - 1) / 2
    due = image.affine @ [*((np.array(image.shape) - 1) / 2), 1]
    assert due[:3] == pytest.approx(middle * [-1, -1, 1], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"output": "a.jpg"}, "--output"),
        ({"output": "s3://bucket/a.png"}, "--output"),
        ({"output": "a.nii.gz"}, "--output"),
        ({"output": "a.png", "series": "1.2", "where": "true"}, "--where"),
        ({"output": "a.png", "limit": 0}, "--limit"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        ShowConfig(**settings)


def test_what_cannot_be_asked_or_written_is_said(
    lake: str, connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    series = find_series(connection, "excluded_by is null")
    out = str(tmp_path / "a.png")
    wrong = [
        ShowConfig(output=out, lake=lake, series="1.2.3"),
        ShowConfig(output=out, lake=lake, where="sequense = 'CT'"),
        ShowConfig(output=out, lake=lake, where="false"),
        ShowConfig(output=str(tmp_path / "no" / "a.png"), lake=lake, series=series),
        ShowConfig(output=out, lake=lake, series=series, slices=0),
    ]
    for config, part in zip(
        wrong, ("1.2.3: no such", "sequense", "no series", "No such file", "--slices"), strict=True
    ):
        with pytest.raises(SettingError, match=part):
            list(show(config))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VolumeError, match="bad_declaration"):
        lay_planes(np.zeros((2, 2, 2)), np.zeros(3), np.eye(3) * 1e200, np.zeros(3))
