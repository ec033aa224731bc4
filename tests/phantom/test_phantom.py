"""The phantom archive: what training, labelling and harvesting tests rely on."""

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from radnet_lake.errors import SettingError, StoreError
from radnet_lake.phantom.anatomy import build_patient
from radnet_lake.phantom.headers import SYNTAXES
from radnet_lake.phantom.phantom import (
    PhantomConfig,
    list_frames,
    mask_liver,
    phantom,
    plan_patient,
    render_series,
)
from radnet_lake.phantom.plan import Series, list_coverage
from radnet_lake.phantom.protocol import VENDORS
from radnet_lake.phantom.shape import Grid, paint_labels, turn_axes
from radnet_lake.phantom.tissue import CODES, Acquisition, relax_signal

PATIENTS = 4
SMALL = 48
BOXES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "brain": ((-67, -81, 750), (67, 94, 887)),
    "upper_head_neck": ((-60, -98, 682), (60, 60, 798)),
    "lower_head_neck": ((-60, -50, 578), (60, 80, 682)),
    "lung": ((-145, -82, 300), (145, 92, 583)),
    "breast": ((-150, -182, 376), (150, -95, 504)),
    "liver": ((-148, -90, 240), (82, 72, 412)),
    "kidney": ((-95, 12, 196), (95, 82, 330)),
    "intestine": ((-126, -75, -15), (126, 80, 388)),
    "pelvis": ((-140, -70, -30), (140, 105, 188)),
}
"""Where each coverage label's target lies in nominal coordinates, mm, lowest and highest corner."""

Archive = tuple[Path, dict[str, list[tuple[str, bytes]]], dict[str, dict[str, str]]]


def make_config(out: Path, **settings: Any) -> PhantomConfig:
    return PhantomConfig(str(out), **{"patients": PATIENTS, "size": SMALL, **settings})


def read_all(folder: Path) -> list[tuple[str, bytes]]:
    """Every DICOM object below a folder, those in zips too: (name, bytes)."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as members:
                names = [n for n in members.namelist() if n != "AUTORUN.INF"]
                found += [(f"{path.name}!/{name}", members.read(name)) for name in names]
        else:
            found.append((path.relative_to(folder).as_posix(), path.read_bytes()))
    return found


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    out = tmp_path_factory.mktemp("phantom") / "archive"
    phantom(make_config(out))
    with out.with_name("archive.truth.csv").open(encoding="utf-8", newline="") as stream:
        truth = {row["SeriesInstanceUID"]: row for row in csv.DictReader(stream)}
    files: dict[str, list[tuple[str, bytes]]] = {}
    for name, data in read_all(out):
        ds = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        files.setdefault(str(ds.get("SeriesInstanceUID", "none")), []).append((name, data))
    return out, files, truth


@pytest.fixture(scope="session")
def plans() -> dict[str, Series]:
    config = make_config(Path("unused"))
    return {s.uid: s for number in range(PATIENTS) for s in plan_patient(config, number)}


def read_frames(data: bytes) -> list[tuple[tuple[float, ...], int, np.ndarray, float]]:
    """Position, instance number, rescaled pixels and slope of every frame of a file."""
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    pixels = ds.pixel_array.astype(np.float64)
    if "NumberOfFrames" not in ds:
        slope = float(ds.get("RescaleSlope", 1))
        values = pixels * slope + float(ds.get("RescaleIntercept", 0))
        return [(tuple(ds.ImagePositionPatient), int(ds.InstanceNumber), values, slope)]
    frames = []
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        rescale = group.PixelValueTransformationSequence[0]
        slope = float(rescale.RescaleSlope)
        values = pixels[index] * slope + float(rescale.RescaleIntercept)
        position = tuple(group.PlanePositionSequence[0].ImagePositionPatient)
        frames.append((position, index + 1, values, slope))
    return frames


def test_written_pixels_equal_rendered_arrays_for_every_vendor_syntax_and_view(
    phantoms: Archive, plans: dict[str, Series]
) -> None:
    _, files, truth = phantoms
    seen = set()
    for uid, series in plans.items():
        rendered = []
        for stack, places in zip(render_series(series), list_frames(series), strict=True):
            rendered += [(p, index, frame) for (p, index), frame in zip(places, stack, strict=True)]
        written = [frame for _, data in files[uid] for frame in read_frames(data)]
        copies = 2 if series.oddity == "copies" else 1
        assert len(written) == copies * len(rendered)
        down = series.study.vendor.name in ("ge", "uih") and series.oddity != "enhanced"
        for position, number, values, slope in written:
            index = number - 1
            if down and len(series.grids) == 1:
                index = len(rendered) - number
            place, _, frame = rendered[index]
            assert np.allclose(position, place, atol=1e-3)
            ge_ct = series.study.vendor.name == "ge" and series.study.modality == "CT"
            padded = values == -3024 if ge_ct else np.zeros(values.shape, bool)
            assert padded.mean() < 0.3
            gap = np.abs(values - frame)[~padded]
            assert gap.max() <= slope / 2 + 1e-2
        row = truth[uid]
        seen |= {row["vendor"], row["transfer_syntax"], row["view"], series.oddity}
    assert seen >= {v.name for v in VENDORS} | set(SYNTAXES)
    assert seen >= {"axial", "coronal", "sagittal", "oblique", "enhanced"}


def test_truth_has_one_row_per_series_and_counts_its_files(phantoms: Archive) -> None:
    _, files, truth = phantoms
    assert set(files) - {"none"} == set(truth)
    assert {uid: len(found) for uid, found in files.items() if uid != "none"} == {
        uid: int(row["n_files"]) for uid, row in truth.items()
    }


def test_truth_geometry_agrees_with_headers(phantoms: Archive) -> None:
    _, files, truth = phantoms
    directions = {"axial": 2, "coronal": 1, "sagittal": 0}
    checked = 0
    for uid, row in truth.items():
        if row["excluded_by"] or not row["view"]:
            continue
        positions, normals = [], []
        for _, data in files[uid]:
            ds = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True)
            if "NumberOfFrames" in ds:
                shared = ds.SharedFunctionalGroupsSequence[0]
                axes = shared.PlaneOrientationSequence[0].ImageOrientationPatient
                groups = ds.PerFrameFunctionalGroupsSequence
                positions = [g.PlanePositionSequence[0].ImagePositionPatient for g in groups]
            else:
                axes = ds.ImageOrientationPatient
                positions.append(ds.ImagePositionPatient)
            normals.append(np.cross(axes[:3], axes[3:]))
        depth = sorted({round(float(np.dot(p, normals[0])), 2) for p in positions})
        assert len(depth) == int(row["slice_count"]) >= 16
        assert np.allclose(np.diff(depth), float(row["slice_spacing_mm"]), atol=0.05)
        assert int(np.argmax(np.abs(normals[0]))) == directions[row["view"]]
        assert np.abs(normals[0]).max() > 0.8
        checked += 1
    assert checked > 3 * PATIENTS


def test_covered_organs_lie_inside_the_field_of_view(plans: dict[str, Series]) -> None:
    partial = ("prostate",)  # a prostate slab counts as pelvis, as in the paper's data
    for series in plans.values():
        region = series.study.region
        if series.oddity or region in partial or series.sequence == "LOCALIZER":
            continue
        grid = series.grids[0]
        for label in BOXES.keys() & set(list_coverage(series)):
            low, high = (np.array(c) * series.study.patient.scale for c in BOXES[label])
            middle, half = (low + high) / 2, (high - low) / 2
            index = np.linalg.solve(grid.steps.T, middle - grid.origin)
            reach = 0.8 * np.abs(np.diag(half) @ np.linalg.inv(grid.steps)).max(0)
            assert (index - reach > -1).all(), (region, series.view, label)
            assert (index + reach < np.array(grid.shape)).all(), (region, series.view, label)


def test_every_kind_that_must_be_excluded_and_kept_is_there(phantoms: Archive) -> None:
    truth = phantoms[2].values()
    reasons = {row["excluded_by"] for row in truth}
    assert reasons >= {"geom", "few", "nodesc", "time", "seq", "stir", "spacing", "view"}
    assert "not_image" in reasons
    kept = [row["sequence"] for row in truth if not row["excluded_by"]]
    for sequence in ("CT", "T1-SE", "T2-SE", "T1-FLAIR", "T2-FLAIR"):
        assert kept.count(sequence) >= PATIENTS * 0.75
    assert {row["contrast"] for row in truth if not row["excluded_by"]} == {"True", "False"}


def test_only_masks_writes_the_same_series_and_masks_and_no_more(
    phantoms: Archive, tmp_path: Path
) -> None:
    _, files, truth = phantoms
    out = tmp_path / "only"
    phantom(make_config(out, only="masks"))
    with out.with_name("only.truth.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["SeriesInstanceUID"]: row for row in csv.DictReader(stream)}
    masked = {uid for uid, row in truth.items() if row["mask"]}
    assert {uid for uid, row in rows.items() if row["mask"]} == masked != set()
    assert rows.items() <= truth.items()
    assert len(rows) == 2 * len(masked)
    assert read_all(out) == sorted(found for uid in rows for found in files[uid])


def test_equal_seed_gives_equal_bytes_and_other_seed_other_ones(
    phantoms: Archive, tmp_path: Path
) -> None:
    _, files, truth = phantoms
    phantom(make_config(tmp_path / "first", patients=1))
    with (tmp_path / "first.truth.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["SeriesInstanceUID"]: row for row in csv.DictReader(stream)}
    assert rows.items() <= truth.items()
    theirs = {name: data for found in files.values() for name, data in found}
    again = read_all(tmp_path / "first")
    assert len(again) > 100
    for name, data in again:
        assert data == theirs[name], name
    first, other = (plan_patient(make_config(tmp_path, seed=seed), 0) for seed in (3, 4))
    assert not {series.uid for series in first} & {series.uid for series in other}
    assert first[0].study.patient.scale != other[0].study.patient.scale


def test_liver_mask_lies_on_its_ct(phantoms: Archive, plans: dict[str, Series]) -> None:
    out, files, truth = phantoms
    masked = [uid for uid, row in truth.items() if row["mask"]]
    assert len(masked) >= 2
    everything = {name.split("!/")[-1]: data for found in files.values() for name, data in found}
    for uid in masked:
        seg = pydicom.dcmread(io.BytesIO(everything[truth[uid]["mask"]]))
        liver = mask_liver(plans[uid])
        kept = [k for k in range(len(liver)) if liver[k].any()]
        assert np.array_equal(seg.pixel_array.astype(bool), liver[kept])
        places = [p for p, _ in list_frames(plans[uid])[0]]
        for group, k in zip(seg.PerFrameFunctionalGroupsSequence, kept, strict=True):
            position = group.PlanePositionSequence[0].ImagePositionPatient
            assert np.allclose(position, places[k], atol=1e-3)
        spacing = float(truth[uid]["slice_spacing_mm"])
        area = np.prod([np.linalg.norm(plans[uid].grids[0].steps[a]) for a in (1, 2)])
        assert 0.7 < liver.sum() * area * spacing / 1e6 < 3.0  # litres
        hounsfield = render_series(plans[uid])[0][liver]
        assert 30 < np.median(hounsfield) < 180
    assert out.is_dir()


def test_contrast_agent_brightens_vessels_kidneys_and_tumours() -> None:
    names = ("artery", "vein", "cortex", "liver", "carcinoma", "glioma", "mucosa")
    for tesla in (1.5, 3.0):
        for scan in (Acquisition("SE", 550, 11), Acquisition("GR", 4.6, 1.9, flip=12.0)):
            plain = relax_signal(scan, tesla, 0.0)
            agent = relax_signal(scan, tesla, 1.0)
            for name in names:
                code = CODES[name]
                assert agent[code] >= plain[code] * (1.0 if scan.family == "GR" else 1.15)
            white = CODES["white"]
            assert abs(agent[white] / plain[white] - 1) < 0.1


def test_sequences_differ_as_radiologists_expect() -> None:
    def signal(scan: Acquisition, name: str) -> float:
        return float(relax_signal(scan, 1.5, 0.0)[CODES[name]])

    t1, t2 = Acquisition("SE", 500, 10), Acquisition("SE", 4500, 100)
    t1_flair, t2_flair = Acquisition("IR", 2000, 12, 880), Acquisition("IR", 9000, 120, 2450)
    assert signal(t1, "white") > signal(t1, "grey") > signal(t1, "csf")
    assert signal(t2, "csf") > signal(t2, "grey") > signal(t2, "white")
    for scan in (t1_flair, t2_flair):
        assert signal(scan, "csf") < 0.15 * max(signal(scan, "white"), signal(scan, "grey"))
    assert signal(t1_flair, "white") > signal(t1_flair, "grey")
    assert signal(t2_flair, "grey") > signal(t2_flair, "white")
    stir = Acquisition("IR", 4500, 60, 175)
    assert signal(stir, "fat") < 0.2 * signal(stir, "muscle")
    diffusion = Acquisition("EP", 5000, 80, b=1000)
    assert signal(diffusion, "grey") > 3 * signal(diffusion, "csf")


def test_oblique_grid_samples_the_same_patient_as_an_axial_one() -> None:
    patient = build_patient(np.random.default_rng(1), "M", 50)
    axial = Grid(np.array([-90.0, -110, 640]), np.diag([9.0, 8, 7])[::-1], (24, 28, 26))
    labels = paint_labels(patient, axial)
    turned = turn_axes((20, 30, 10))
    for k, i, j in ((3, 4, 5), (12, 14, 13), (20, 14, 12), (10, 18, 12), (16, 10, 9)):
        point = axial.origin + np.array([k, i, j]) @ axial.steps
        grid = Grid(point - np.array([2, 3, 4]) @ (turned * 5), turned * 5, (5, 7, 9))
        assert paint_labels(patient, grid)[2, 3, 4] == labels[k, i, j]
    assert len(np.unique(labels)) > 10


def test_file_habits_of_exports_are_there(phantoms: Archive) -> None:
    out, files, _ = phantoms
    names = [path for path in out.rglob("*") if path.is_file()]
    assert {".dcm", ".IMA", ".zip", ""} <= {path.suffix for path in names}
    assert any(path.name == "DICOMDIR" for path in names)
    everything = [data for found in files.values() for _, data in found]
    assert any(data[128:132] != b"DICM" for data in everything)
    assert any("MUSTERFRAU" in path.as_posix() for path in names)


def test_directory_records_lead_to_the_files(phantoms: Archive) -> None:
    out = phantoms[0]
    directories = list(out.rglob("DICOMDIR"))
    assert directories
    for path in directories:
        directory = pydicom.dcmread(path)
        kinds = {record.DirectoryRecordType for record in directory.DirectoryRecordSequence}
        assert kinds == {"PATIENT", "STUDY", "SERIES", "IMAGE"}
        for record in directory.DirectoryRecordSequence:
            if record.DirectoryRecordType == "IMAGE":
                path_of = path.parent.joinpath(*record.ReferencedFileID)
                image = pydicom.dcmread(path_of, force=True)
                assert image.SOPInstanceUID == record.ReferencedSOPInstanceUIDInFile


def test_patients_differ(plans: dict[str, Series]) -> None:
    patients = {s.study.patient_id: s.study.patient for s in plans.values()}
    assert len(patients) == PATIENTS
    assert len({patient.scale for patient in patients.values()}) == PATIENTS
    assert {patient.sex for patient in patients.values()} == {"F", "M"}


@pytest.mark.parametrize(
    "wrong",
    [{"patients": 0}, {"seed": -1}, {"size": 8}, {"only": "mr"}, {"out": ""}],
    ids=lambda w: next(iter(w)),
)
def test_wrong_setting_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=r"OUT|--"):
        PhantomConfig(**{"out": "somewhere", **wrong})  # type: ignore[arg-type]


def test_full_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(SettingError, match="not empty"):
        phantom(PhantomConfig(str(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_unwritable_folder_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        phantom(PhantomConfig(str(tmp_path / "file" / "archive"), patients=1, size=32))
