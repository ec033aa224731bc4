"""Takes settings, writes a DICOM archive of digital patients by several vendors, and its truth.

`plan_patient` decides everything but pixels, `render_series` makes these, `phantom` writes both.
Equal settings give equal bytes.
"""

import csv
import io
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import UID

from radnet_lake.errors import SettingError, StoreError
from radnet_lake.phantom.headers import build_frames, encode_dataset
from radnet_lake.phantom.objects import build_enhanced, build_mask, build_report
from radnet_lake.phantom.plan import (
    PhantomConfig,
    Series,
    find_exclusion,
    find_masked,
    list_coverage,
    list_frames,
    make_uid,
    mask_liver,
    measure_spacing,
    plan_patient,
    render_series,
)

__all__ = [
    "PhantomConfig", "PhantomReport", "list_frames", "mask_liver", "phantom", "plan_patient",
    "render_series",
]  # fmt: skip

TRUTH_COLUMNS = (
    "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "SeriesDescription",
    "sequence", "view", "contrast", "coverage", "time_series", "slice_count", "slice_spacing_mm",
    "excluded_by", "vendor", "transfer_syntax", "n_files", "oddity", "mask",
)  # fmt: skip
DIRECTORY_KEYWORDS = (
    "SpecificCharacterSet", "PatientID", "PatientName", "StudyDate", "StudyTime",
    "StudyDescription", "StudyInstanceUID", "StudyID", "AccessionNumber", "Modality",
    "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "SOPClassUID", "SOPInstanceUID",
)  # fmt: skip
PATHS = {
    "siemens": "siemens/{who}/{day}_{region}/{slug}_{order:04d}/"
    "{pid}.{modality}.{order:04d}.{number:04d}.IMA",
    "ge": "ge/p{short}/e{exam}/s{order}/i{number:05d}.MRDC.{number}",
    "philips": "philips/{pid}_{region}/DICOM/SE{order:06d}/IM{number:06d}",
    "canon": "canon/{study}/{series}/{number:05d}.dcm",
    "uih": "uih/{who}/{region} {modality}/{order:03d} {slug}/{number:05d}.dcm",
}
"""Path of a frame in a vendor's export; some paths hold the patient's name."""


@dataclass(frozen=True)
class PhantomReport:
    """Counts of written objects, and the file with the truth."""

    patients: int
    studies: int
    series: int
    files: int
    truth: str
    archive: str

    def __str__(self) -> str:
        return (
            f"{self.patients} patients, {self.studies} studies, {self.series} series,"
            f" {self.files} files; truth in {self.truth}"
            f"\nnext: radnet-lake harvest {self.archive} --lake LAKE --phi keep"
        )


def phantom(config: PhantomConfig) -> PhantomReport:
    """Write the archive and its truth.

    Raises SettingError if OUT is neither new nor empty, StoreError if it cannot be written.
    """
    out = Path(config.out)
    truth = out.with_name(out.name + ".truth.csv")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError("is not empty", "OUT", "name a new folder")
    rows: list[dict[str, object]] = []
    n_files = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        for number in range(config.patients):
            plans = plan_patient(config, number)
            for uid in dict.fromkeys(series.study.uid for series in plans):
                files: dict[Path, bytes] = {}
                study = [series for series in plans if series.study.uid == uid]
                rows += encode_study(study, files, config.only == "masks")
                n_files += len(files)
                for path, data in files.items():
                    (out / path).parent.mkdir(parents=True, exist_ok=True)
                    (out / path).write_bytes(data)
        with truth.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, TRUTH_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise StoreError(
            f"cannot be written: {error.strerror}", "OUT", "check space and permission"
        ) from error
    studies = len({row["StudyInstanceUID"] for row in rows})
    return PhantomReport(config.patients, studies, len(rows), n_files, str(truth), config.out)


def encode_study(
    plans: list[Series], files: dict[Path, bytes], only_masks: bool = False
) -> list[dict[str, object]]:
    """Encode one study into `files` (path below the archive -> bytes) and return its truth rows.

    only_masks: only the series that has a mask, and the mask.
    """
    study, masked = plans[0].study, find_masked(plans)
    rows: list[dict[str, object]] = []
    disc = FileSet()
    if only_masks:
        if masked is None:
            return rows
        plans = [masked]
    for series in plans:
        before, mask_path, syntax = len(files), "", study.syntax
        if series.oddity == "enhanced" and syntax in ("rle", "big"):
            syntax = "explicit"  # because RLE needs a fragment per frame
        for number, ds in enumerate(_build_objects(series), 1):
            data, path = encode_dataset(ds, syntax), name_file(series, number)
            if study.disc == "folder":
                path = Path("exports", study.patient_id, _list_on_disc(disc, ds))
            files[path] = strip_preamble(data, syntax) if series.lacks_preamble else data
            if series.oddity == "copies":
                files[path.parent / "copy" / path.name] = data
        counts = len(files) - before
        if series is masked:
            mask = build_mask(series)
            path = name_file(series, 1).parent.with_name("SEG00001") / "SEG00001"
            files[path], mask_path = encode_dataset(mask, "explicit"), path.as_posix()
            rows.append(_describe_companion(series, mask))
        rows.append(_describe_series(series, syntax, counts, mask_path))
    if study.modality == "CT" and not only_masks:
        report = build_report(plans[-1])
        path = name_file(plans[-1], 1).parent.with_name("SR000001") / "SR000001"
        files[path] = encode_dataset(report, "explicit")
        rows.append(_describe_companion(plans[-1], report))
    if study.disc == "folder":
        disc.UID = UID(make_uid(study.uid, "DICOMDIR"))
        files[Path("exports", study.patient_id, "DICOMDIR")] = _write_directory(disc)
    if study.disc == "zip":
        data = _zip_files(files)
        files.clear()
        files[Path("exports", f"{study.patient_id}.zip")] = data
    return rows


def _build_objects(series: Series) -> Iterator[Dataset]:
    stacks = render_series(series)
    if series.oddity == "enhanced":
        return iter([build_enhanced(series, stacks[0])])
    return build_frames(series, stacks)


def strip_preamble(data: bytes, syntax: str) -> bytes:
    """File -> without preamble, in implicit VR also without meta group, as in old archives."""
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :] if syntax == "implicit" else data[132:]


def name_file(series: Series, number: int) -> Path:
    """Number of a frame -> its path in the vendor's export, below the archive."""
    study = series.study
    return Path(
        PATHS[study.vendor.name].format(
            who=f"{study.name.replace('^', '_').upper()}_{study.patient_id}",
            day=study.day.strftime("%Y%m%d"), region=study.region, modality=study.modality,
            slug="".join(c if c.isalnum() else "_" for c in series.text) or "series",
            pid=study.patient_id, study=study.uid, series=series.uid, order=series.number,
            number=number, short=study.patient_id[-5:], exam=study.uid[-5:],
        )
    )  # fmt: skip


def _list_on_disc(disc: FileSet, ds: Dataset) -> str:
    record = Dataset(
        {ds[keyword].tag: ds[keyword] for keyword in DIRECTORY_KEYWORDS if keyword in ds}
    )
    record.file_meta = ds.file_meta
    return str(disc.add(record).FileID)


def _write_directory(disc: FileSet) -> bytes:
    # In a temporary folder, because pydicom also writes the files, which are encoded already.
    with tempfile.TemporaryDirectory() as folder:
        disc.write(folder)
        return Path(folder, "DICOMDIR").read_bytes()


def _zip_files(files: dict[Path, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, data in {Path("AUTORUN.INF"): b"[autorun]\r\n", **files}.items():
            # A fixed date: equal settings give equal bytes.
            info = zipfile.ZipInfo(path.as_posix(), (2020, 1, 1, 0, 0, 0))
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _describe_series(series: Series, syntax: str, n_files: int, mask: str) -> dict[str, object]:
    study = series.study
    values = (
        series.uid, study.uid, study.patient_id, study.modality, series.text, series.sequence,
        {"oblique": "oblique", "planes": ""}.get(series.oddity, series.view), series.post,
        "|".join(list_coverage(series)), series.oddity in ("dynamic", "siblings", "monitor"),
        len(series.slices), measure_spacing(series), find_exclusion(series), study.vendor.name,
        syntax, n_files, series.oddity, mask,
    )  # fmt: skip
    return dict(zip(TRUTH_COLUMNS, values, strict=True))


def _describe_companion(series: Series, ds: Dataset) -> dict[str, object]:
    return dict.fromkeys(TRUTH_COLUMNS, "") | {
        "SeriesInstanceUID": ds.SeriesInstanceUID, "StudyInstanceUID": series.study.uid,
        "PatientID": series.study.patient_id, "Modality": ds.Modality,
        "SeriesDescription": ds.SeriesDescription, "excluded_by": "not_image",
        "vendor": series.study.vendor.name, "transfer_syntax": "explicit", "n_files": 1,
    }  # fmt: skip
