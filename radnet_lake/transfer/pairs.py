"""Cases that a CSV file names, pair by pair: NIfTI, DICOM folders, series of a lake."""

import csv
import io
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa

from radnet_lake.dicom.header import Reject, read_header
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.errors import RadnetLakeError, SettingError, StoreError, VolumeError
from radnet_lake.lake.log import Lake, open_lake
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.lake.views import connect
from radnet_lake.storage.sources import absolute_uri, list_unit, list_units, open_file, read_range
from radnet_lake.transfer.case import LiverCase, Organ, read_dicom_case, read_nifti_case
from radnet_lake.transfer.sources import Candidate, Listing, check_ct, digest_value
from radnet_lake.volume.frame import FRAME_COLUMNS, Frame
from radnet_lake.volume.series_frames import to_frames

NIFTI = (".nii", ".nii.gz")
MOST_CSV_BYTES = 1 << 26
MOST_FILES = 100_000
"""Of a folder of DICOM files."""
FIRST_BYTES = 1 << 13


def list_pairs(path: str, lake: Lake | None, organ: str) -> Listing:
    """The rows of a CSV file: image, mask and, where they are known, label, patient.

    image: a NIfTI file, a folder of DICOM files, or a SeriesInstanceUID of `lake`. mask: a NIfTI
    file, or a SEG or RTSTRUCT. label: number of the organ in it, or several with blanks between,
    as of two kidneys; without one all of a NIfTI mask counts, and of DICOM masks what is named
    `organ`. Paths are relative to the CSV file. Cases are named pair-1 and so on, by row. Raises
    SettingError that names the row.
    """
    uri = absolute_uri(path)
    found = []
    for number, row in enumerate(_read_csv(uri), 1):
        where = f"{uri.rpartition('/')[2]}, row {number}"
        image, mask = (row.get(name, "").strip() for name in ("image", "mask"))
        if not image or not mask:
            raise SettingError("names no image or no mask", where, "fill both, or take it out")
        labels = row.get("label", "").split()
        if not all(label.isascii() and label.isdigit() for label in labels):
            remedy = "give a number, several with blanks between, or nothing"
            raise SettingError(f"{row['label']!r} is no label", where, remedy)
        wanted: Organ = tuple(map(int, labels)) or organ
        mask = _resolve(uri, mask)
        is_series = lake is not None and re.fullmatch(r"[0-9.]+", image) is not None
        name = f"pair-{number}"
        series = image if is_series else None
        if is_series and lake:
            read = partial(_read_series_pair, lake.uri, mask, wanted)
        else:
            image = _resolve(uri, image)
            if image.endswith(NIFTI) and not mask.endswith(NIFTI):
                remedy = "give the DICOM files of the image, or a NIfTI mask"
                raise SettingError("a NIfTI image with a DICOM mask", where, remedy)
            read = partial(_read_pair, image, mask, wanted)
        patient = row.get("patient", "").strip() or name
        digest = digest_value((image, mask, wanted))
        found.append(Candidate(name, patient, digest, read, series, waits=is_series))
    if not found:
        raise SettingError("holds no pair", uri, "write a row for each image with its mask")
    return Listing(_add_patients(found, lake))


def _add_patients(candidates: list[Candidate], lake: Lake | None) -> list[Candidate]:
    """With patient and study of those whose image lies in the lake."""
    uids = [c.SeriesInstanceUID for c in candidates if c.SeriesInstanceUID]
    if not uids or not lake:
        return candidates
    with connect(lake.uri) as connection:
        connection.register("wanted", pa.table({"SeriesInstanceUID": uids}))
        rows = connection.sql(read_query("series_patients")).fetchall()
    held = {uid: (study, patient) for uid, study, patient in rows}
    return [
        c._replace(StudyInstanceUID=held[uid][0], patient=held[uid][1])
        if (uid := c.SeriesInstanceUID) in held
        else c
        for c in candidates
    ]


def _read_csv(uri: str) -> list[dict[str, str]]:
    try:
        with open_file(uri) as file:
            data = file.read(MOST_CSV_BYTES + 1)
        if len(data) > MOST_CSV_BYTES:
            raise SettingError("is too large", uri, f"give at most {MOST_CSV_BYTES} bytes")
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restval="")
        rows = list(reader)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise SettingError("there is no such file", uri, "check --pairs") from None
    except OSError:
        raise StoreError("the file cannot be read", uri, "check permissions") from None
    except (UnicodeDecodeError, csv.Error):
        raise SettingError("is no CSV file in UTF-8", uri, "write it again as one") from None
    missing = {"image", "mask"} - set(reader.fieldnames or ())
    if missing:
        remedy = "its first line is: image,mask,label,patient"
        raise SettingError(f"has no column {', '.join(sorted(missing))}", uri, remedy)
    return rows


def _resolve(base: str, path: str) -> str:
    """A path of a CSV file as a URI; relative ones lie beside the file."""
    is_whole = path.startswith(("/", "~")) or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path)
    return absolute_uri(path if is_whole else f"{base.rpartition('/')[0]}/{path}")


def _read_pair(image: str, mask: str, organ: Organ) -> LiverCase:
    if not image.endswith(NIFTI):
        return _read_masked(check_ct(_read_folder(image)), mask, organ)
    labels = {number: 1 for number in organ} if isinstance(organ, tuple) else None
    return _say_missing(partial(read_nifti_case, image, mask, labels))


def _read_series_pair(lake: str, mask: str, organ: Organ, rows: pa.Table) -> LiverCase:
    frames = check_ct(to_frames(rows, choose_decryptor(open_lake(lake))))
    return _read_masked(frames, mask, organ)


def _read_masked(frames: list[Frame], mask: str, organ: Organ) -> LiverCase:
    given = mask if mask.endswith(NIFTI) else Frame(uri=mask)
    return _say_missing(partial(read_dicom_case, frames, given, organ))


def _say_missing(read: Callable[[], LiverCase]) -> LiverCase:
    try:
        return read()
    except SettingError as error:
        # Its words name the file.
        raise VolumeError("missing_pair", error.what) from None
    except VolumeError as error:
        if error.reason == "vanished":
            raise VolumeError("missing_pair", error.detail) from None
        raise


def _read_folder(folder: str) -> list[Frame]:
    """The frames of the one series whose files lie in a folder."""
    try:
        found = read_series(folder)
    except SettingError:
        raise VolumeError("missing_pair", "there is no such folder") from None
    if len(found) > 1:
        raise VolumeError("bad_declaration", f"the folder holds {len(found)} series")
    if not found:
        raise VolumeError("no_frames", "the folder holds no DICOM image")
    return next(iter(found.values()))


def read_series(folder: str) -> dict[str, list[Frame]]:
    """The frames of each series whose files lie in a folder, by SeriesInstanceUID ('' where the
    files have none); files without an image are stepped over.

    Raises SettingError where there is no such folder, VolumeError too_large for too many files.
    """
    found: dict[str, list[Frame]] = {}
    entries = [entry for unit in list_units(folder, 1) for entry in list_unit(unit)]
    if len(entries) > MOST_FILES:
        raise VolumeError("too_large", f"a folder of {len(entries)} files")
    for entry in entries:
        try:
            rows = _read_rows(entry.uri, entry.size_bytes)
        except RadnetLakeError:
            raise
        except Exception:  # a file that is none of ours: what there is besides must make a stack
            continue
        for row in rows:
            if row.get("object_kind") != "image":
                continue
            known: dict[str, Any] = {name: row.get(name) for name in FRAME_COLUMNS}
            frame = Frame(**known | {"uri": entry.uri, "size_bytes": entry.size_bytes})
            found.setdefault(row.get("SeriesInstanceUID") or "", []).append(frame)
    return found


def _read_rows(uri: str, size: int) -> list[dict[str, Any]]:
    header = read_header(partial(read_range, uri), size, read_range(uri, 0, FIRST_BYTES))
    rows = header if isinstance(header, Reject) else make_frame_rows(header)
    return [] if isinstance(rows, Reject) else rows
