"""Candidates for cases: takes a LiTS folder, or a lake with SEG or RTSTRUCT objects.

Listing reads no voxel; `stream_candidates` adds the frames of
those whose image lies in a lake. A candidate can go to another process, which calls its `read`.
transfer/pairs.py lists more of them.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.lake.log import Lake, open_lake
from radnet_lake.lake.sql import choose_rows, run_sql
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.uris import choose_decryptor
from radnet_lake.lake.views import connect
from radnet_lake.transfer.case import LitsPair, LiverCase, list_lits, read_dicom_case, read_lits
from radnet_lake.volume.frame import Frame
from radnet_lake.volume.series_frames import stream_rows, to_frames


class Candidate(NamedTuple):
    """What may become a case.

    name: of its files. patient: what tells patients apart, not to be stored. digest: changes with
    the files it comes from. read: gives the case; of one with `waits` once it has the series' rows.
    """

    name: str
    patient: str
    digest: str
    read: Callable[..., LiverCase]
    SeriesInstanceUID: str | None = None
    StudyInstanceUID: str | None = None
    waits: bool = False


class Listing(NamedTuple):
    """All candidates of a source; orphans: masks in a lake of whose image it has nothing."""

    candidates: list[Candidate]
    orphans: int = 0


def list_lits_cases(folder: str) -> Listing:
    """The cases of a LiTS folder, also those of which a file is missing. Each is a patient."""
    found = []
    for pair in list_lits(folder):
        name = f"lits-{pair.number}"
        found.append(Candidate(name, name, digest_value(pair), partial(_read_lits, pair)))
    return Listing(found)


def list_lake_cases(lake: Lake, organ: str, where: str = "") -> Listing:
    """The series of a lake that a SEG or RTSTRUCT of their study names.

    where: SQL condition over the view `series`. Raises SettingError where it is wrong, where no
    mask lies in the lake, or none of an image that does.
    """
    with connect(lake.uri) as connection:
        run_sql(connection, read_query("masked_image"))
        # Without a condition, a lake that is not labelled will do.
        relation = "series" if where else "masked_image"
        choose_rows(connection, relation, where, "series", "SeriesInstanceUID")
        rows = connection.sql(read_query("masked_series")).to_arrow_table().to_pylist()
        counts = connection.sql(
            "select count(distinct mask), count(distinct mask)"
            " filter (SeriesInstanceUID is null) from masked_image"
        )
        (n_masks, orphans), *_ = counts.fetchall()
    if not rows:
        what = "the lake holds no CT that a SEG or RTSTRUCT belongs to"
        if n_masks:
            what = (
                f"of {n_masks} SEG and RTSTRUCT objects none belongs to an image that is asked for"
            )
        raise SettingError(what, lake.uri, "harvest masks and images together; check --where")
    found = []
    for row in rows:
        uid = row["SeriesInstanceUID"]
        masks = [(uri, archive) for uri, archive in row["masks"]]
        found.append(
            Candidate(
                name_case(uid),
                row["PatientID"] or f"study {row['StudyInstanceUID']}",
                digest_value((uid, masks, row["stamp"])),
                partial(_read_lake, lake.uri, masks, organ),
                uid,
                row["StudyInstanceUID"],
                waits=True,
            )
        )
    return Listing(found, orphans)


def stream_candidates(lake: Lake | None, candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """The same candidates, ready to be read; frames out of the lake are held a series at a time.

    A series that the lake does not hold is a candidate whose `read` says so.
    """
    waiting: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.waits and candidate.SeriesInstanceUID:
            waiting[candidate.SeriesInstanceUID].append(candidate)
        else:
            yield candidate
    if waiting and lake:
        for uid, rows in stream_rows(lake, list(waiting)):
            for candidate in waiting.pop(uid):
                yield candidate._replace(read=partial(candidate.read, rows), waits=False)
    for lost in waiting.values():
        for candidate in lost:
            read = partial(_refuse, "missing_pair", "the lake has no such series")
            yield candidate._replace(read=read, waits=False)


def name_case(series: str) -> str:
    """A file name for a series; its UID comes out of a header and is not trusted."""
    name = re.sub(r"[^0-9A-Za-z.-]", "_", series).strip(".")[:80]
    return name if name == series else f"{name}-{digest_value(series)}"


def find_known(lake: Lake, series: pa.Table) -> set[str] | None:
    """Patients of these series (column SeriesInstanceUID), as candidates of a lake name them.

    None where the lake holds none of the series.
    """
    with connect(lake.uri) as connection:
        connection.register("wanted", series.select(["SeriesInstanceUID"]))
        rows = connection.sql(read_query("series_patients")).fetchall()
    return {patient for *_, patient in rows} or None


def check_ct(frames: list[Frame]) -> list[Frame]:
    """The same frames. Raises VolumeError not_ct where one is of another modality."""
    others = {frame.Modality for frame in frames} - {"CT"}
    if others:
        raise VolumeError("not_ct", f"Modality {others.pop()}")
    return frames


def digest_value(value: object) -> str:
    """A short digest of a value's repr."""
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def _refuse(reason: str, detail: str) -> LiverCase:
    raise VolumeError(reason, detail)


def _read_lits(pair: LitsPair) -> LiverCase:
    if not pair.volume or not pair.segmentation:
        missing = "segmentation" if pair.volume else "volume"
        raise VolumeError("missing_pair", f"{missing}-{pair.number}.nii is missing")
    return read_lits(pair)


def _read_lake(
    lake: str, masks: Sequence[tuple[str, str | None]], organ: str, rows: pa.Table
) -> LiverCase:
    decrypt_uri = choose_decryptor(open_lake(lake)) or str
    frames = check_ct(to_frames(rows, decrypt_uri))
    trouble = VolumeError("no_mask", "no mask")
    for n, (uri, archive) in enumerate(masks):
        mask = Frame(uri=decrypt_uri(uri), archive_uri=decrypt_uri(archive) if archive else None)
        try:
            case = read_dicom_case(frames, mask, organ)
        except VolumeError as error:
            if error.reason not in ("no_mask", "mask_mismatch"):
                raise
            # An object that names the organ but does not fit is the better reason to report.
            trouble = trouble if trouble.reason == "mask_mismatch" else error
            continue
        note = f"mask {n + 1} of {len(masks)} that name the series is the first with the organ"
        return case if len(masks) == 1 else case._replace(notes=(*case.notes, note))
    raise trouble
