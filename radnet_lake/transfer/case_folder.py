"""The folder of prepared cases, on disk or on S3: takes cases, gives them back, checked.

    settings.json          what the cases were made with
    regions.pt             the pretrained network that chose the windows, if there was one
    cases/<case>.arrow     image and mask, a record batch for each slice
    cases/<case>.json      the case's row; written after its voxels, so that it says they are whole
    proposal.csv           how well the chosen windows cover the organ
    cases.parquet          the rows of all cases, also of what makes no case; written last

Files are read with bounds, for they may come from anywhere.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from radnet_lake.errors import RadnetLakeError, SettingError
from radnet_lake.network.checkpoint import decode_checkpoint, encode_checkpoint
from radnet_lake.schema import VOLUME_REASONS
from radnet_lake.storage.output_folder import OutputFolder, refuse_damage
from radnet_lake.volume.frame import Vector
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.volume import MAX_VOXELS

CASES = pa.schema(
    [
        ("case", pa.string()),
        ("patient", pa.string()),
        ("split", pa.string()),
        ("SeriesInstanceUID", pa.string()),
        ("StudyInstanceUID", pa.string()),
        ("depth", pa.int32()),
        ("rows", pa.int32()),
        ("columns", pa.int32()),
        ("spacing_mm", pa.list_(pa.float64())),
        ("organ_voxels", pa.int64()),
        ("organ_ml", pa.float64()),
        ("starts", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("chosen", pa.list_(pa.int32())),
        ("window_organ", pa.list_(pa.float64())),
        ("is_known", pa.bool_()),
        ("notes", pa.list_(pa.string())),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""patient: a digest, never the PatientID. SeriesInstanceUID, StudyInstanceUID: of cases of a lake.
depth, rows, columns: voxels of the case; spacing_mm: between them. starts: first slice of each
window. scores: of the windows, null without a network. chosen: indices into starts. window_organ:
share of the organ's voxels in each window. is_known: the patient was in the network's training;
null where nothing tells. reason, detail: why it is no case, else null; then all from split on is
null, but for notes.
"""
CASE_REASONS = VOLUME_REASONS | {
    "missing_pair": "image or mask of the pair is missing",
    "not_ct": "the image is no CT",
    "killed": "reading it killed the process, twice",
}
_WEIGHTS = ("format", "network", "heads", "preprocessing", "settings", "model")
"""Of a checkpoint: what the region proposal needs. The optimiser's state is twice the weights."""
_SLICE = pa.schema([("image", pa.binary()), ("mask", pa.binary())])


@dataclass(frozen=True)
class CaseSettings:
    """What all cases of a folder were made with.

    settings: size of the network's input. spacing_mm: between a case's slices. stride: slices
    between windows. threshold: score above which a window is chosen. region_label: class of the
    coverage head that scored. network: digest of its weights (inference.digest_weights), '' where
    all windows are taken. source: lits, lake or pairs. seed: of the split.
    """

    organ: str
    settings: ResampleSettings
    spacing_mm: float
    stride: int
    threshold: float
    region_label: str
    network: str
    source: str
    seed: int

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON and checkpoints."""
        return asdict(self)


class StoredCase(NamedTuple):
    """image: HU, int16 (D, H, W). mask: uint8, 0 or 1. position_mm, steps_mm: volume.Volume's."""

    image: npt.NDArray[np.int16]
    mask: npt.NDArray[np.uint8]
    position_mm: Vector
    steps_mm: Vector


def decode_settings(values: Mapping[str, Any], where: str) -> CaseSettings:
    """CaseSettings out of what `describe` gave. Raises SettingError that names `where`."""
    try:
        settings = ResampleSettings(**values["settings"])
        return CaseSettings(**{**values, "settings": settings})
    except (KeyError, TypeError, SettingError) as error:
        what = f"holds no settings of cases ({type(error).__name__})"
        remedy = "use the radnet_lake that wrote it, or prepare the cases again"
        raise SettingError(what, where, remedy) from None


def check_alike(ours: CaseSettings, theirs: CaseSettings, where: str) -> None:
    """Raise SettingError, naming `where`, if `ours` are not cases as a run learned from `theirs`:
    of another organ, input size or slice spacing."""
    sizes = [f"{s.slices}x{s.rows}x{s.columns}" for s in (ours.settings, theirs.settings)]
    for what, own, due in (
        ("organ", ours.organ, theirs.organ),
        ("input size", *sizes),
        ("slice spacing", f"{ours.spacing_mm:g} mm", f"{theirs.spacing_mm:g} mm"),
        ("preprocessing", ours.settings.version(), theirs.settings.version()),
    ):
        if own != due:
            remedy = "prepare cases with the run's settings, or use a run that learned from such"
            raise SettingError(f"the {what} is {own}, the run's {due}", where, remedy)


class CaseFolder(OutputFolder):
    """Prepared cases at a path or s3://bucket/prefix.

    Every method raises StoreError where the folder cannot be read or written.
    """

    what = "folder of finished cases"
    remedy = "make it, or finish it, with: radnet-lake liver prepare --out"

    def exists(self) -> bool:
        """Whether the cases are all prepared."""
        return self.folder.has("cases.parquet")

    def is_begun(self) -> bool:
        """Whether a preparation was begun here."""
        return self.folder.has("settings.json")

    def read_settings(self) -> CaseSettings:
        """What the cases were made with. Raises SettingError where there are none."""
        return decode_settings(self.read_json("settings.json"), f"{self.uri}/settings.json")

    def write_settings(self, settings: CaseSettings) -> None:
        """Keep the settings; from then on the folder is one of cases."""
        self.write_json("settings.json", settings.describe())

    def read_cases(self) -> pa.Table:
        """All rows, as CASES. Raises SettingError where they are not prepared, or not yet."""
        data = self.read("cases.parquet")
        try:
            # pq.read_table starts threads, which with torch loaded may abort Python at its end.
            table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
            return table.select(CASES.names).cast(CASES)
        except (pa.ArrowException, KeyError, OSError):
            raise refuse_damage(f"{self.uri}/cases.parquet") from None

    def write_cases(self, rows: list[dict[str, Any]]) -> None:
        """Write all rows: the folder is complete then."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, CASES), sink, compression="zstd")
        self.folder.write("cases.parquet", memoryview(sink.getvalue()))

    def read_case(self, name: str) -> StoredCase:
        """The voxels of a case. Raises SettingError where it is missing, StoreError if damaged."""
        where = f"{self.uri}/cases/{name}.arrow"
        try:
            return _decode_case(self.read(f"cases/{name}.arrow"))
        except RadnetLakeError:
            raise
        except Exception:  # damaged bytes make pyarrow and json fail in any way
            raise refuse_damage(where) from None

    def write_case(self, name: str, case: StoredCase, row: dict[str, Any]) -> None:
        """Keep a case and its row; it is finished then."""
        self.folder.write(f"cases/{name}.arrow", _encode_case(case))
        self.write_json(f"cases/{name}.json", row)

    def read_finished(self) -> Iterator[dict[str, Any]]:
        """The rows of the cases that are finished, as write_case had them."""
        files = self.folder.names("cases/")
        whole = {file.removesuffix(".arrow") for file in files if file.endswith(".arrow")}
        for file in files:
            if file.endswith(".json") and file.removesuffix(".json") in whole:
                yield self.read_json(file)

    def read_network(self) -> dict[str, Any] | None:
        """The checkpoint of the network that chose the windows, None where there was none.

        Raises CheckpointError where it is damaged.
        """
        if not self.folder.has("regions.pt"):
            return None
        return decode_checkpoint(self.folder.read("regions.pt"), f"{self.uri}/regions.pt")

    def write_network(self, state: dict[str, Any]) -> None:
        """Keep the network of a checkpoint, without what training went on from."""
        kept = {name: state[name] for name in _WEIGHTS if name in state}
        self.folder.write("regions.pt", encode_checkpoint(kept))

    def write_proposal(self, rows: list[dict[str, Any]]) -> None:
        """Write proposal.csv."""
        sink = pa.BufferOutputStream()
        pa.csv.write_csv(pa.Table.from_pylist(rows), sink)
        self.folder.write("proposal.csv", memoryview(sink.getvalue()))


def _encode_case(case: StoredCase) -> memoryview:
    place = {
        "shape": case.image.shape,
        "position_mm": case.position_mm.tolist(),
        "steps_mm": case.steps_mm.tolist(),
    }
    kind = _SLICE.with_metadata({"place": json.dumps(place)})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, kind, options=options) as writer:
        for image, mask in zip(case.image, case.mask, strict=True):
            columns = [pa.array([plane.tobytes()], pa.binary()) for plane in (image, mask)]
            writer.write_batch(pa.record_batch(columns, schema=kind))
    return memoryview(sink.getvalue())


def _decode_case(data: bytes) -> StoredCase:
    reader = pa.ipc.open_file(pa.BufferReader(data))
    place = json.loads(reader.schema.metadata[b"place"])
    depth, rows, columns = map(int, place["shape"])
    if min(depth, rows, columns) < 1 or math.prod((depth, rows, columns)) > MAX_VOXELS:
        raise ValueError("no size of a case")
    if reader.num_record_batches != depth:
        raise ValueError("not as many slices as declared")
    image = np.empty((depth, rows, columns), np.int16)
    mask = np.empty(image.shape, np.uint8)
    for k in range(depth):
        batch = reader.get_batch(k)
        for target, name in ((image, "image"), (mask, "mask")):
            plane = np.frombuffer(batch.column(name)[0].as_buffer(), target.dtype)
            target[k] = plane.reshape(rows, columns)
    steps_mm = np.array(place["steps_mm"], np.float64).reshape(3, 3)
    return StoredCase(image, mask, np.array(place["position_mm"], np.float64), steps_mm)
