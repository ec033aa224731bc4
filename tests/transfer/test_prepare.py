"""What a user of `radnet-lake liver prepare` relies on, with real files, lakes, and a real Ray."""

import csv
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pydicom
import pytest
import torch
from s3_server import S3Server

from radnet_lake.cli.app import main
from radnet_lake.errors import SettingError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.views import connect
from radnet_lake.network.checkpoint import build_network, describe_network
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.phantom.headers import make_item
from radnet_lake.phantom.phantom import PhantomConfig, phantom
from radnet_lake.train.run_folder import SERIES, RunFolder
from radnet_lake.transfer import prepare
from radnet_lake.transfer.case import read_nifti_case
from radnet_lake.transfer.case_folder import CaseFolder
from radnet_lake.transfer.prepare import LiverPrepareConfig, prepare_cases, split_patients
from radnet_lake.transfer.proposal import measure_proposal, score_regions
from radnet_lake.transfer.sources import Candidate, Listing
from radnet_lake.transfer.windows import cut_image, list_windows
from radnet_lake.volume.resample import ResampleSettings

SIZE = ResampleSettings(8, 24, 24)
AFFINE = np.diag([-2.0, -2, 10, 1])
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"

pytestmark = [pytest.mark.usefixtures("ray_local")]


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def make_pair(depth: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image and a mask as NIfTI stores them; the organ is in five slices."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1000, 1000, (20, 18, depth)).astype(np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[4:12, 5:9, 10:15] = 5
    return image, mask


def contour_boxes(ct: list[Path], seg: pydicom.Dataset) -> pydicom.Dataset:
    """A square in five slices as RTSTRUCT of the SEG's study."""
    slices = sorted((pydicom.dcmread(p) for p in ct), key=lambda d: d.ImagePositionPatient[2])
    contours = []
    for ds in slices[4:9]:
        x, y, z = map(float, ds.ImagePositionPatient)
        row, column = map(float, ds.PixelSpacing)
        corners = [(5, 5), (5, 15), (15, 15), (15, 5)]
        points = [v for r, c in corners for v in (x + c * column, y + r * row, z)]
        data = [f"{v:.6f}"[:16] for v in points]
        contours.append(make_item(ContourGeometricType="CLOSED_PLANAR", ContourData=data))
    made = pydicom.Dataset()
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate"):
        setattr(made, name, seg[name].value)
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = RTSTRUCT, "1.2.9", "1.2.8"
    made.Modality = "RTSTRUCT"
    made.StructureSetROISequence = [make_item(ROINumber=3, ROIName="Liver")]
    made.ROIContourSequence = [make_item(ReferencedROINumber=3, ContourSequence=contours)]
    made.ReferencedFrameOfReferenceSequence = [make_item(
        FrameOfReferenceUID=slices[0].FrameOfReferenceUID,
        RTReferencedStudySequence=[make_item(
            RTReferencedSeriesSequence=[make_item(SeriesInstanceUID=slices[0].SeriesInstanceUID)]
        )],
    )]  # fmt: skip
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """Four CT of three patients: with SEG, with RTSTRUCT, with a SEG of another organ, with SEG."""
    folder = tmp_path_factory.mktemp("archive") / "a"
    phantom(PhantomConfig(str(folder), patients=6, size=32, only="masks"))
    with folder.with_name("a.truth.csv").open(encoding="utf-8") as file:
        cts = [row for row in csv.DictReader(file) if row["mask"]]
    assert len(cts) == 4
    ct = [p for p in folder.rglob("*") if p.is_file() and "SEG" not in p.name]
    of = cts[1]["SeriesInstanceUID"]
    ct = [
        p
        for p in ct
        if pydicom.dcmread(p, specific_tags=["SeriesInstanceUID"])[0x20000E].value == of
    ]
    seg = folder / cts[1]["mask"]
    made = contour_boxes(ct, pydicom.dcmread(seg))
    made.save_as(seg, enforce_file_format=True)
    other = pydicom.dcmread(folder / cts[2]["mask"])
    segment = other.SegmentSequence[0]
    segment.SegmentLabel = "Spleen"
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    kind.CodeValue, kind.CodeMeaning = "78961009", "Spleen"
    other.save_as(folder / cts[2]["mask"])
    return folder, cts


@pytest.fixture(scope="module", params=["keep", "pseudonymise"])
def lake(request: pytest.FixtureRequest, archive: Any, tmp_path_factory: Any) -> str:
    uri = str(tmp_path_factory.mktemp("lake") / request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RADNET_LAKE_KEY", "0123456789abcdef" * 4)
        harvest(HarvestConfig((str(archive[0]),), lake=uri, phi=request.param))
    return uri


def write_run(
    folder: Path, settings: ResampleSettings = SIZE, trained: str = "", lake: str = ""
) -> str:
    """A run whose network nobody trained, but whose scores differ; it saw the series `trained`."""
    torch.manual_seed(0)
    network = RadNet(NetworkSettings(depth=10, width=4, features=16))
    with torch.no_grad():
        network.heads["coverage"].weight.normal_(0, 3)
    run = RunFolder(str(folder))
    run.write_config({"lake": lake})
    row: dict[str, Any] = {name: None for name in SERIES.names}
    seen = [row | {"SeriesInstanceUID": trained, "split": "train"}]
    seen += [row | {"SeriesInstanceUID": "1.2.3", "split": "test"}]
    run.write_series(pa.Table.from_pylist(seen, SERIES))
    state = describe_network(network.eval())
    state |= {"preprocessing": settings.version(), "settings": asdict(settings)}
    run.write_checkpoint(state, "best")
    return run.uri


def read_rows(out: Path | str) -> dict[str, dict[str, Any]]:
    return {row["case"]: row for row in CaseFolder(str(out)).read_cases().to_pylist()}


def test_cases_of_a_lake_with_masks_by_reference_and_patients_known(
    lake: str, archive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADNET_LAKE_KEY", "0123456789abcdef" * 4)
    with connect(lake) as connection:
        uids = connection.sql(
            "select min(SeriesInstanceUID), StudyInstanceUID from instances where Modality = 'CT'"
            " group by StudyInstanceUID order by any_value(Rows), count(*)"
        ).fetchall()
        (patient,), *_ = connection.sql("select max(PatientID) from instances").fetchall()
        trained = connection.sql(
            f"select min(SeriesInstanceUID) from instances where PatientID = '{patient}'"
            " and Modality = 'CT'"
        ).fetchall()[0][0]
    run = write_run(tmp_path / "run", trained=trained, lake=lake)
    config = LiverPrepareConfig(str(tmp_path / "cases"), lake=lake, run=run)
    report = prepare_cases(config)
    assert (report.seen, report.cases, report.known) == (4, 3, 0)
    assert report.reasons == {"no_mask": 1}
    assert report.splits == {"train": 1, "validation": 1, "test": 1}
    rows = read_rows(config.out)
    assert {row["SeriesInstanceUID"] for row in rows.values()} == {uid for uid, _ in uids}
    assert {row["StudyInstanceUID"] for row in rows.values()} == {study for _, study in uids}
    assert not any(patient in str(row.values()) for row in rows.values())
    # The patient of two series is known by either, and no other is.
    known = [row["is_known"] for row in rows.values() if not row["reason"]]
    assert sorted(known) == [False, False, True]
    assert any("trained on patients of 1 cases" in text for text in report.warnings)
    folder = CaseFolder(config.out)
    for name, row in rows.items():
        if row["reason"]:
            continue
        case = folder.read_case(name)
        assert case.image.shape == (row["depth"], row["rows"], row["columns"])
        assert case.mask.sum() == row["organ_voxels"] > 0
        assert row["spacing_mm"][0] == pytest.approx(30)
        assert len(row["scores"]) == len(row["starts"]) == len(row["window_organ"])
        picked = [n for n, score in enumerate(row["scores"]) if score > 0.9]
        assert row["chosen"] == (picked or [int(np.argmax(row["scores"]))])
    assert folder.read_network() is not None
    assert (tmp_path / "cases" / "proposal.csv").is_file()


def test_masks_out_of_either_kind_of_lake_are_whole(
    archive: Any, lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADNET_LAKE_KEY", "0123456789abcdef" * 4)
    out = str(tmp_path / "cases")
    config = LiverPrepareConfig(out, lake=lake, spacing_mm=2, slices=8, rows=24, columns=24)
    prepare_cases(config)
    rows = [row for row in read_rows(out).values() if not row["reason"]]
    folder, cts = archive
    wanted = []
    for n in (0, 3):
        seg = pydicom.dcmread(folder / cts[n]["mask"])
        measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        size = float(np.prod(measures.PixelSpacing)) * float(cts[n]["slice_spacing_mm"])
        wanted.append(seg.pixel_array.sum() * size / 1000)
    found = [row["organ_ml"] for row in rows]
    for organ_ml in wanted:
        assert min(abs(organ_ml - other) for other in found) < 0.05 * organ_ml
    # Squares of 10 x 10 voxels, however many slices of 2 mm five of the file's are.
    assert sum(row["organ_voxels"] % 100 == 0 for row in rows) == 1
    named = min(rows, key=lambda row: abs(row["organ_ml"] - wanted[0]))
    pairs = tmp_path / "pairs.csv"
    mask = folder / cts[0]["mask"]
    pairs.write_text(f"image,mask\n{named['SeriesInstanceUID']},{mask}\n1.2.3.4,{mask}\n")
    prepare_cases(replace(config, out=str(tmp_path / "pairs"), pairs=str(pairs)))
    pair, lost = read_rows(tmp_path / "pairs").values()
    assert (pair["organ_voxels"], pair["patient"]) == (named["organ_voxels"], named["patient"])
    assert lost["reason"] == "missing_pair"
    for row in rows:
        assert row["scores"] is None
        assert row["chosen"] == list(range(len(row["starts"])))
        assert row["is_known"] is None


def test_lits_with_what_is_missing_and_wrong_goes_on(tmp_path: Path, s3: S3Server) -> None:
    lits = tmp_path / "lits"
    for n in range(5):
        image, mask = make_pair(seed=n)
        save(lits / f"volume-{n}.nii", image)
        save(lits / f"segmentation-{n}.nii.gz", mask // 5)
    save(lits / "segmentation-3.nii.gz", make_pair(29)[1])
    save(lits / "segmentation-4.nii.gz", make_pair()[1] * 0)
    save(lits / "volume-7.nii", make_pair()[0])
    (lits / "volume-8.nii").write_bytes(b"damaged")
    save(lits / "segmentation-8.nii", make_pair()[1])
    run = write_run(tmp_path / "run")
    out = f"s3://{s3.bucket()}/cases"
    report = prepare_cases(LiverPrepareConfig(out, lits=str(lits), run=run, spacing_mm=20))
    assert report.seen == report.cases + report.failed + report.known == 7
    rows = read_rows(out)
    assert {name: row["reason"] for name, row in rows.items() if row["reason"]} == {
        "lits-3": "mask_mismatch", "lits-4": "no_mask", "lits-7": "missing_pair",
        "lits-8": "bad_declaration",
    }  # fmt: skip
    assert rows["lits-7"]["detail"] == "segmentation-7.nii is missing"
    row = rows["lits-0"]
    assert (row["depth"], row["rows"], row["columns"]) == (15, 18, 20)
    assert row["spacing_mm"] == pytest.approx([20, 2, 2])
    assert row["organ_ml"] == pytest.approx(row["organ_voxels"] * 0.08)
    assert row["starts"] == [0, 1, 2, 3, 4, 5, 6, 7]
    case = CaseFolder(out).read_case("lits-0")
    wanted = read_nifti_case(str(lits / "volume-0.nii"), str(lits / "segmentation-0.nii.gz"))
    assert np.abs(case.image[0] - (wanted.image[0] + wanted.image[1]) / 2).max() <= 0.5
    organ = case.mask.sum(axis=(1, 2))
    assert row["window_organ"] == pytest.approx(
        [organ[k : k + 8].sum() / organ.sum() for k in range(8)]
    )


def test_a_run_that_was_ended_goes_on_and_other_settings_are_refused(tmp_path: Path) -> None:
    for n in range(4):
        image, mask = make_pair(seed=n)
        save(tmp_path / "lits" / f"volume-{n}.nii", image)
        save(tmp_path / "lits" / f"segmentation-{n}.nii", mask)
    config = LiverPrepareConfig(
        str(tmp_path / "cases"), lits=str(tmp_path / "lits"), slices=8, rows=24, columns=24
    )

    def end(done: int, *_: Any, **__: Any) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_cases(config, end)
    with pytest.raises(SettingError, match="liver prepare"):
        CaseFolder(config.out).read_cases()
    with pytest.raises(SettingError, match=r"made with stride 1, not 2"):
        prepare_cases(replace(config, stride=2))
    report = prepare_cases(config)
    assert report.known >= 2
    assert report.cases + report.known == report.seen == 4
    before = read_rows(config.out)
    # A damaged case is made anew when its file is deleted; a new one comes in; splits stay.
    next((tmp_path / "cases" / "cases").glob("*.arrow")).unlink()
    save(tmp_path / "lits" / "volume-9.nii", make_pair()[0])
    save(tmp_path / "lits" / "segmentation-9.nii", make_pair()[1])
    again = prepare_cases(config)
    assert (again.known, again.cases) == (3, 2)
    after = read_rows(config.out)
    assert {name: after[name]["split"] for name in before} == {
        name: row["split"] for name, row in before.items()
    }
    with pytest.raises(SettingError, match="holds other files"):
        prepare_cases(replace(config, out=str(tmp_path / "lits")))


def test_pairs_beside_their_file_of_any_kind(
    archive: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = make_pair()
    save(tmp_path / "d" / "i.nii.gz", image)
    save(tmp_path / "d" / "m.nii.gz", mask)
    folder, cts = archive
    seg = folder / cts[0]["mask"]
    ct = next(
        p.parent for p in folder.rglob("*") if p.is_file() and "SEG" not in p.name
        and pydicom.dcmread(p).SeriesInstanceUID == cts[0]["SeriesInstanceUID"]
    )  # fmt: skip
    mr = tmp_path / "mr"
    mr.mkdir()
    for n, path in enumerate(ct.iterdir()):
        ds = pydicom.dcmread(path)
        ds.Modality = "MR"
        ds.save_as(mr / str(n))
    lines = [
        "image,mask,label,patient", "d/i.nii.gz,d/m.nii.gz,5,A", "d/i.nii.gz,d/m.nii.gz,,A",
        f"{ct},{seg},,B", f"{ct},{seg},1,B", "d/i.nii.gz,d/m.nii.gz,6,C", f"mr,{seg},,",
        "d/none.nii,d/m.nii.gz,5,", "d,d/m.nii.gz,5,", f"nowhere,{seg},,", f"{ct},none.dcm,,",
    ]  # fmt: skip
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    out = str(tmp_path / "cases")
    flags = ["--slices", "8", "--rows", "24", "--columns", "24", "--out", out]
    assert main(["liver", "prepare", "--pairs", str(tmp_path / "pairs.csv"), *flags]) == 0
    stated = capsys.readouterr().out
    assert "seen      10 = 4 cases + 6 failed + 0 known" in stated
    assert "of 2 patients all are in train" in stated
    rows = read_rows(out)
    assert [row["reason"] for row in rows.values()] == [
        None, None, None, None, "no_mask", "not_ct", "missing_pair", "no_frames",
        "missing_pair", "missing_pair",
    ]  # fmt: skip
    assert rows["pair-1"]["patient"] == rows["pair-2"]["patient"] != rows["pair-3"]["patient"]
    assert rows["pair-3"]["organ_voxels"] == rows["pair-4"]["organ_voxels"] > 0
    assert str(tmp_path) not in str(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,mask\n", "holds no pair"),
        ("picture,mask\na,b\n", "has no column image"),
        ("image,mask,label\na.nii,b.nii,liver\n", r"pairs\.csv, row 1: 'liver' is no label"),
        ("image,mask\na.nii,\n", r"row 1: names no image or no mask"),
        ("image,mask\na.nii,b.dcm\n", "row 1: a NIfTI image with a DICOM mask"),
    ],
)
def test_a_wrong_file_of_pairs_is_told_by_row(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    config = LiverPrepareConfig(str(tmp_path / "cases"), pairs=str(tmp_path / "pairs.csv"))
    with pytest.raises(SettingError, match=words):
        prepare_cases(config)
    assert not (tmp_path / "cases").exists()


def test_a_case_that_kills_its_worker_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = make_pair()
    paths = save(tmp_path / "i.nii", image), save(tmp_path / "m.nii", mask)
    deadly = Candidate("deadly", "a", "0", partial(os._exit, 1))
    good = [Candidate(f"good-{n}", "b", "0", partial(read_nifti_case, *paths)) for n in range(2)]
    listing = Listing([deadly, *good], orphans=2)
    monkeypatch.setattr(prepare, "list_lits_cases", lambda folder: listing)
    config = LiverPrepareConfig(str(tmp_path / "c"), lits="x", slices=8, rows=24, columns=24)
    report = prepare_cases(config)
    assert (report.cases, report.reasons) == (2, {"killed": 1})
    assert read_rows(config.out)["deadly"]["reason"] == "killed"
    assert "2 masks belong to no image that the lake holds" in report.warnings
    monkeypatch.setattr(prepare, "list_lits_cases", lambda folder: Listing([deadly]))
    with pytest.raises(SettingError, match="none of 1 makes a case: 1 killed"):
        prepare_cases(replace(config, out=str(tmp_path / "none")))


def test_wrong_settings_are_told_before_any_work(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    config = LiverPrepareConfig(str(tmp_path / "cases"), lits=str(tmp_path), run=run)
    with pytest.raises(SettingError, match="knows no region 'spleen'; name one of: brain, "):
        prepare_cases(replace(config, organ="spleen"))
    with pytest.raises(SettingError, match="--rows: the run's network was trained on 24, not 64"):
        prepare_cases(replace(config, rows=64))
    with pytest.raises(SettingError, match="--stride: leaves gaps"):
        prepare_cases(replace(config, stride=9))
    square = write_run(tmp_path / "square", ResampleSettings(8, 24, 24, pad_to_square=True))
    with pytest.raises(SettingError, match="margins"):
        prepare_cases(replace(config, run=square))
    with pytest.raises(SettingError, match="no LiTS file"):
        prepare_cases(replace(config, organ="spleen", region_label="kidney"))
    with pytest.raises(SettingError, match="two sources"):
        replace(config, pairs="x")


def test_the_papers_split_and_small_ones() -> None:
    def count(n: int) -> list[int]:
        split = list(split_patients(map(str, range(n)), 0, {}).values())
        return [split.count(name) for name in ("train", "validation", "test")]

    assert count(131) == [92, 19, 20]
    assert [count(n) for n in (1, 2, 3, 4, 10)] == [
        [1, 0, 0], [2, 0, 0], [1, 1, 1], [2, 1, 1], [7, 1, 2],
    ]  # fmt: skip
    names = [str(n) for n in range(40)]
    first = split_patients(names, 0, {})
    assert split_patients(names[::-1], 0, {}) == first
    assert split_patients(names, 1, {}) != first
    more = split_patients([f"new {n}" for n in range(60)] + names, 0, first)
    assert {name: more[name] for name in names} == first
    assert list(more.values()).count("validation") == 15


def test_scores_are_the_networks_of_each_window(tmp_path: Path) -> None:
    network = build_network(RunFolder(write_run(tmp_path)).read_checkpoint())
    image = np.random.default_rng(0).integers(-1000, 1000, (25, 20, 30)).astype(np.int16)
    windows = list_windows(25, 8, 4, 20, 30)
    scores = score_regions(network, image, windows, SIZE, "kidney", batch=2)
    cut = torch.from_numpy(np.stack([cut_image(image, w, SIZE) for w in windows]))[:, None]
    with torch.inference_mode():
        wanted = network(cut).logits["coverage"].sigmoid()[:, 6]
    assert scores == pytest.approx(wanted.tolist(), abs=1e-5)
    assert len(set(np.round(scores, 4))) > 1


def test_the_proposal_is_measured_by_window() -> None:
    def row(scores: list[float], share: list[float], chosen: list[int], **values: Any) -> Any:
        return {"scores": scores, "window_organ": share, "chosen": chosen} | values

    rows = [
        row([0.95, 0.99, 0.1], [0, 0.5, 1], [0, 1], is_known=False, covered_above=0.5, covered=0.5),
        row([0.2, 0.6], [1, 0], [1], is_known=True, covered_above=0, covered=0),
        row([0.1, 0.3], [0.2, 1], [1], is_known=None, covered_above=0, covered=1),
        {"scores": None},
    ]
    stated = {(r["patients"], r["rule"]): r for r in measure_proposal(rows, 0.9)}
    assert set(stated) == {
        (p, r) for p in ("all", "held_out", "known") for r in ("above", "chosen")
    }
    above, chosen = stated["all", "above"], stated["all", "chosen"]
    assert (above["cases"], above["windows"], above["picked"], chosen["picked"]) == (3, 7, 2, 4)
    assert (above["whole_recall"], chosen["whole_recall"]) == (0, pytest.approx(1 / 3))
    assert (above["any_recall"], chosen["any_recall"]) == (pytest.approx(0.2), pytest.approx(0.4))
    assert (above["any_precision"], chosen["whole_precision"]) == (0.5, 0.25)
    assert (above["missed"], chosen["missed"]) == (2, 1)
    assert chosen["organ_share"] == pytest.approx(0.5)
    assert stated["known", "above"]["whole_precision"] is None


def test_a_lake_without_masks_says_so(
    archive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cts = archive
    single = tmp_path / "one"
    single.mkdir()
    path = folder / cts[0]["mask"]
    (single / "seg.dcm").write_bytes(path.read_bytes())
    uri = str(tmp_path / "lake")
    harvest(HarvestConfig((str(single),), lake=uri, phi="keep"))
    assert open_lake(uri).snapshot.version
    config = LiverPrepareConfig(str(tmp_path / "cases"), lake=uri)
    with pytest.raises(
        SettingError, match="of 1 SEG and RTSTRUCT objects none belongs to an image"
    ):
        prepare_cases(config)
    with pytest.raises(SettingError, match="--where"):
        prepare_cases(replace(config, where="no such thing"))
