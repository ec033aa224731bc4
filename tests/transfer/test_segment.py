"""What a user relies on of `liver segment`: masks lie on their images, and runs can be repeated."""

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.csv
import pydicom
import pydicom.data
import pytest
from dicom_files import KEY
from liver_runs import write_run

import radnet_lake
from radnet_lake.errors import SettingError, StoreError
from radnet_lake.harvest.harvest import HarvestConfig, harvest
from radnet_lake.lake.log import open_lake
from radnet_lake.transfer.pairs import read_series
from radnet_lake.transfer.read_mask import read_mask
from radnet_lake.transfer.segment import LiverSegmentConfig, segment_liver
from radnet_lake.transfer.segment_worker import Scan, read_scan, restore_slices
from radnet_lake.transfer.sources import list_lake_cases, stream_candidates
from radnet_lake.volume.series_frames import read_volume
from radnet_lake.volume.volume import read_volume_of

BOX = (slice(6, 14), slice(5, 15), slice(8, 20))
"""The organ, in slices of 2.5 mm: whole slices of the 5 mm that the segmenter knows."""
SHAPE = (20, 24, 24)
FIRST = (-24, -30, 0)
ML = 8 * 10 * 12 * 2.5 * 2 * 2 / 1000


WAYS = {
    "head first": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "feet first": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "prone": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "coronal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
"""Of the frames: along a row, down a column, from file to file."""


def make_image(empty: bool = False) -> np.ndarray:
    image = np.full(SHAPE, -20, np.int16)
    image[BOX] = -20 if empty else 180
    return image


def write_ct(folder: Path, number: int = 1, way: str = "head first", **attributes: Any) -> str:
    """A CT whose frames hold make_image; its SeriesInstanceUID."""
    across, down, along = WAYS[way]
    ds = pydicom.data.get_testdata_file("CT_small.dcm", read=True, download=False)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.{number}", f"1.2.{number}.3"
    ds.FrameOfReferenceUID, ds.PatientID = f"1.2.{number}.9", f"P{number}"
    ds.Rows, ds.Columns = SHAPE[1:]
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    ds.PixelSpacing, ds.ImageOrientationPatient = [2, 2], [*across, *down]
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    folder.mkdir(parents=True, exist_ok=True)
    for n, plane in enumerate(make_image(bool(attributes.get("SeriesDescription") == "empty"))):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}.3.{n + 1}"
        ds.InstanceNumber = n + 1
        ds.ImagePositionPatient = list(FIRST + 2.5 * n * np.array(along))
        ds.PixelData = plane.tobytes()
        ds.save_as(folder / f"{n:02d}.dcm")
    return f"1.2.{number}.3"


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    rows = pyarrow.csv.read_csv(out / "segments.csv").to_pylist()
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A segmenter that finds what is bright."""
    folder = tmp_path_factory.mktemp("run")
    return write_run(str(folder / "run"), "unused").uri


@pytest.mark.parametrize("way", ["head first", "feet first", "prone"])
def test_a_folder_of_files_gets_masks_that_lie_on_it(run: str, way: str, tmp_path: Path) -> None:
    name = write_ct(tmp_path / "ct", way=way)
    out = tmp_path / "out"
    report = segment_liver(LiverSegmentConfig(run, out=str(out), images=(str(tmp_path / "ct"),)))
    assert (report.wanted, report.segmented, report.failed) == (1, 1, 0)
    volume = read_volume_of(read_series(str(tmp_path / "ct"))[name])
    mask = read_mask((out / f"{name}.seg.dcm").read_bytes(), volume, "liver", "1.2.1.9")
    assert (mask == (volume.values > 0)).all()
    image = nib.load(out / f"{name}.seg.nii.gz")
    voxels = np.argwhere(image.get_fdata() > 0)
    places = nib.affines.apply_affine(np.diag([-1, -1, 1, 1]) @ image.affine, voxels)
    across, down, along = map(np.array, WAYS[way])
    n, row, column = np.mgrid[BOX].reshape(3, -1, 1)
    expected = FIRST + 2 * column * across + 2 * row * down + 2.5 * n * along
    assert sorted(map(tuple, places.round(3))) == sorted(map(tuple, expected))
    assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    row = read_rows(out)[name]
    assert row["organ_ml"] == pytest.approx(ML)
    assert (row["reason"], row["windows"]) == (None, 2)


@pytest.mark.parametrize("way", WAYS)
def test_the_segmenter_sees_each_patient_lying_alike(way: str, tmp_path: Path) -> None:
    name = write_ct(tmp_path / "ct", way=way)
    scan = Scan(name, name, "", read_series(str(tmp_path / "ct"))[name])
    image, _ = read_scan(scan)
    assert (np.diag(image.steps_mm[::-1]) > 0).all()
    assert np.count_nonzero(image.steps_mm) == 3
    # The same points in the patient hold the same values as in the files.
    across, down, along = map(np.array, WAYS[way])
    n, row, column = np.argwhere(make_image() > 0).T[..., None]
    held = FIRST + 2 * column * across + 2 * row * down + 2.5 * n * along
    seen = image.position_mm + np.argwhere(image.values > 0) @ image.steps_mm
    assert sorted(map(tuple, seen)) == sorted(map(tuple, held))


def test_a_nifti_image_gets_its_mask_in_its_own_order(run: str, tmp_path: Path) -> None:
    stored = make_image().transpose(1, 2, 0)[:, ::-1]  # rows, columns from left, slices
    affine = np.array([[0, 2.0, 0, -24], [-2.0, 0, 0, 30], [0, 0, 2.5, 7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "scan.nii.gz")
    config = LiverSegmentConfig(
        run, out=str(tmp_path / "out"), images=(str(tmp_path / "scan.nii.gz"),)
    )
    assert segment_liver(config).segmented == 1
    mask = nib.load(tmp_path / "out" / "scan.seg.nii.gz")
    assert mask.affine == pytest.approx(affine)
    assert (mask.get_fdata() == (stored > 0)).all()
    names = {path.name for path in (tmp_path / "out").iterdir()} - {".tmp"}
    assert names == {"scan.seg.nii.gz", "scan.png", "segments.csv"}


def test_a_second_run_makes_what_is_missing(run: str, tmp_path: Path) -> None:
    full = write_ct(tmp_path / "in" / "full", 1)
    empty = write_ct(tmp_path / "in" / "empty", 2, SeriesDescription="empty")
    broken = write_ct(tmp_path / "in" / "broken", 3)
    (tmp_path / "in" / "broken" / "07.dcm").write_bytes(
        (tmp_path / "in" / "broken" / "07.dcm").read_bytes()[:-900]
    )
    out = tmp_path / "out"

    def again(**settings: Any) -> tuple[int, int, int, int]:
        r = segment_liver(
            LiverSegmentConfig(run, out=str(out), images=(str(tmp_path / "in"),), **settings)
        )
        return r.segmented, r.empty, r.failed, r.known

    assert again() == (2, 1, 1, 0)
    rows = read_rows(out)
    assert rows[empty]["organ_ml"] == 0
    assert not (out / f"{empty}.seg.dcm").exists()
    assert (out / f"{empty}.seg.nii.gz").exists()
    assert rows[broken]["reason"] == "truncated_pixels"
    first = (out / f"{full}.seg.dcm").read_bytes()
    assert again() == (0, 0, 1, 2)
    (out / f"{full}.seg.dcm").unlink()
    write_ct(tmp_path / "in" / "broken", 3)
    assert again() == (2, 0, 0, 1)
    uids = [
        pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID
        for data in (first, (out / f"{full}.seg.dcm").read_bytes())
    ]
    assert uids[0] == uids[1]
    assert again(largest=True)[0] == 3
    (out / "segments.csv").write_text("nonsense")
    with pytest.raises(StoreError, match=r"segments\.csv: the file is damaged"):
        again()


def test_slices_that_are_not_evenly_spaced_are_told(run: str, tmp_path: Path) -> None:
    name = write_ct(tmp_path / "ct")
    for n in (8, 9):
        (tmp_path / "ct" / f"{n:02d}.dcm").unlink()
    out = tmp_path / "out"
    segment_liver(LiverSegmentConfig(run, out=str(out), images=(str(tmp_path / "ct"),)))
    assert "not evenly spaced" in read_rows(out)[name]["notes"]
    seg = pydicom.dcmread(out / f"{name}.seg.dcm")
    places = {
        float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        for groups in seg.PerFrameFunctionalGroupsSequence
    }
    assert places <= {2.5 * n for n in range(20) if n not in (8, 9)}


def test_series_of_a_pseudonymised_lake_get_seg_that_become_cases(
    run: str, ray_local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADNET_LAKE_KEY", KEY)
    for number in (1, 2):
        write_ct(tmp_path / "archive" / str(number), number)
    lake = open_lake(
        harvest(HarvestConfig((str(tmp_path / "archive"),), lake=str(tmp_path / "l"))).lake
    )
    uids = list_uids(lake.uri)
    for path in (tmp_path / "archive" / "2").iterdir():
        path.unlink()
    out = tmp_path / "archive" / "masks"
    config = LiverSegmentConfig(
        run, out=str(out), lake=lake.uri, series=",".join([*uids, "1.9"]), format="seg", workers=2
    )
    report = segment_liver(config)
    assert (report.wanted, report.segmented, report.reasons) == (
        3, 1, {"vanished": 1, "no_frames": 1},
    )  # fmt: skip
    (path,) = out.glob("*.seg.dcm")
    seg = pydicom.dcmread(path)
    assert (seg.PatientID, seg.StudyInstanceUID, seg.FrameOfReferenceUID) == (
        "P1", "1.2.1", "1.2.1.9",
    )  # fmt: skip
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.1.3"
    name = path.name.removesuffix(".seg.dcm")
    assert name in uids
    harvest(HarvestConfig((str(tmp_path / "archive"),), lake=lake.uri))
    listing = list_lake_cases(open_lake(lake.uri), "liver")
    (case,) = [c.read() for c in stream_candidates(open_lake(lake.uri), listing.candidates)]
    assert (case.mask > 0).tolist() == (read_volume(name, lake.uri).values > 0).tolist()


def list_uids(lake: str) -> list[str]:
    with radnet_lake.connect(lake) as connection:
        sql = "select distinct SeriesInstanceUID from instances where object_kind = 'image'"
        return [uid for (uid,) in connection.execute(sql).fetchall()]


def test_a_wrong_setting_is_told(run: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for settings, words in (
        ({"images": ("a.nii",), "format": "seg"}, "no DICOM series"),
        ({"images": ("a.nii",), "lake": "lake"}, "IMAGE"),
        ({"series": "1.2", "where": "true"}, "--where"),
        ({"workers": 0}, "--workers"),
    ):
        with pytest.raises(SettingError, match=words):
            LiverSegmentConfig(run, out=out, **settings)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match="no DICOM image"):
        segment_liver(LiverSegmentConfig(run, out=out, images=(str(tmp_path / "empty"),)))
    write_ct(tmp_path / "ct")
    with pytest.raises(SettingError, match="holds other files"):
        segment_liver(
            LiverSegmentConfig(run, out=str(tmp_path / "ct"), images=(str(tmp_path / "ct"),))
        )


def test_slices_take_the_slice_of_the_case_that_they_lie_in() -> None:
    mask = np.arange(4, dtype=np.uint8)[:, None, None]
    assert restore_slices(mask, 8, 2.5, 5.0).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert restore_slices(mask, 3, 6.5, 5.0).ravel().tolist() == [0, 1, 3]
    assert restore_slices(mask[:2], 9, 1.2, 5.0).ravel().tolist() == [0] * 4 + [1] * 5
