"""Series for benchmarks: the phantom's, of any shape, as files of one frame in any lossless syntax.

Pixels are the phantom's own physics at the wanted resolution, so that they compress as real ones.
"""

from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import UID

from radnet_lake.dicom.header import Header, read_header
from radnet_lake.dicom.instances import make_frame_rows
from radnet_lake.phantom.headers import build_header, describe_grid, find_padding, quantise_frame
from radnet_lake.phantom.phantom import PhantomConfig, plan_patient, render_series
from radnet_lake.phantom.plan import Series
from radnet_lake.phantom.shape import Grid
from radnet_lake.storage.sources import read_range
from radnet_lake.volume.frame import FRAME_COLUMNS, Frame

Image = np.ndarray[Any, Any]
SLAB = 40
"""Slices that are rendered at a time: 512x512 of them take some 300 MB."""


class Stack(NamedTuple):
    """A series to make: of which patient and kind, its shape, mm between slices and pixels."""

    patient: int
    kind: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float]


BODY = Stack(3, "CT", (120, 512, 512), (2.5, 0.74))
STACKS = {
    "CT 120x512x512": BODY,
    "CT 120x512x512 padded": BODY._replace(patient=0),  # GE stores -2000 outside the circle
    "CT 500x512x512": BODY._replace(shape=(500, 512, 512), spacing_mm=(0.6, 0.74)),
    "MR 30x256x256": Stack(1, "T2-SE", (30, 256, 256), (5.0, 0.9)),
}
NATIVE = "1.2.840.10008.1.2.1"
SYNTAXES: dict[str, tuple[str, Callable[[Image, int], bytes]]] = {
    "JPEG 2000": (
        "1.2.840.10008.1.2.4.90",
        lambda image, bits: imagecodecs.jpeg2k_encode(
            image, level=0, codecformat="J2K", reversible=True, bitspersample=bits
        ),
    ),
    "HTJ2K": (
        "1.2.840.10008.1.2.4.201",
        lambda image, bits: imagecodecs.htj2k_encode(image, reversible=True),
    ),
    "JPEG lossless": (
        "1.2.840.10008.1.2.4.70",
        lambda image, bits: imagecodecs.jpeg_encode(
            image, lossless=True, predictor=1, bitspersample=bits
        ),
    ),
    "JPEG-LS": (
        "1.2.840.10008.1.2.4.80",
        lambda image, bits: imagecodecs.jpegls_encode(image, level=0),
    ),
    "RLE": (
        "1.2.840.10008.1.2.5",
        lambda image, bits: RLELosslessEncoder.encode(
            image, rows=image.shape[0], columns=image.shape[1], samples_per_pixel=1,
            number_of_frames=1, bits_allocated=16, bits_stored=16, pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
        ),
    ),
}  # fmt: skip


def plan_series(stack: Stack) -> Series:
    """The patient's first plain axial series of that kind, on a grid of the wanted shape."""
    plans = plan_patient(PhantomConfig("-", size=512), stack.patient)
    series = next(s for s in plans if s.kind == stack.kind and s.view == "axial" and not s.oddity)
    grid = series.grids[0]
    middle = grid.origin + (np.array(grid.shape) - 1) / 2 @ grid.steps
    across, along = stack.spacing_mm
    lengths = np.array([[across], [along], [along]])
    steps = grid.steps / np.linalg.norm(grid.steps, axis=1)[:, None] * lengths
    origin = middle - (np.array(stack.shape) - 1) / 2 @ steps
    return series._replace(grids=(Grid(origin, steps, stack.shape),))


@cache
def draw_images(stack: Stack, most: int = 120) -> list[Image]:
    """Stored values of its slices; of more than `most` slices each of `most` is repeated."""
    series = plan_series(stack)
    (grid,) = series.grids
    depth = min(most, grid.shape[0])
    steps = grid.steps * np.array([[grid.shape[0] / depth], [1], [1]])
    images: list[Image] = []
    for first in range(0, depth, SLAB):
        count = min(SLAB, depth - first)
        slab = Grid(grid.origin + first * steps[0], steps, (count, *grid.shape[1:]))
        part = series._replace(grids=(slab,), slices=tuple(range(count)), seed=series.seed + first)
        padding = find_padding(part, slab)
        images += [quantise_frame(part, image, padding)[0] for image in render_series(part)[0]]
    return [images[k * depth // grid.shape[0]] for k in range(grid.shape[0])]


UID_MARK, NUMBER_MARK = b"2.25.1777777777", b"1777777777"
PLACE_MARKS = (b"777777.770", b"777777.771", b"777777.772")
"""What stands in the header where slices differ; as long as what replaces it."""


def encode_head(series: Series, syntax: str, uid: str) -> bytes:
    """A file of the series up to its pixel data, with the marks."""
    ds = build_header(series)
    for part in describe_grid(series.grids[0]):
        ds.update(part)
    ds.Rows, ds.Columns = series.grids[0].shape[1:]
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.PatientID = uid, f"{uid}.1", uid[-10:]
    ds.SOPInstanceUID, ds.InstanceNumber = UID_MARK.decode(), NUMBER_MARK.decode()
    ds.ImagePositionPatient = [mark.decode() for mark in PLACE_MARKS]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def wrap_pixels(data: bytes, syntax: str) -> bytes:
    """The pixel data element of one frame (PS3.5 A.4 where it is compressed)."""
    tag, item = b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0"
    data += b"\0" * (len(data) % 2)
    size = len(data).to_bytes(4, "little")
    if syntax == NATIVE:
        return tag + b"OW\0\0" + size + data
    table = item + bytes(4)
    return (
        tag
        + b"OB\0\0\xff\xff\xff\xff"
        + table
        + item
        + size
        + data
        + b"\xfe\xff\xdd\xe0"
        + bytes(4)
    )


def write_series(
    folder: Path, series: Series, elements: list[bytes], syntax: str = NATIVE, number: int = 0
) -> Path:
    """One file a slice; `elements` are their pixel data, more than slices are later time points."""
    folder.mkdir(parents=True)
    head, (grid,) = encode_head(series, syntax, f"2.25.77{number:05d}"), series.grids
    for k, element in enumerate(elements):
        place = grid.origin + (k % grid.shape[0]) * grid.steps[0]
        one = head.replace(UID_MARK, f"2.25.1{k:09d}".encode())
        one = one.replace(NUMBER_MARK, f"{k + 1:010d}".encode())
        for mark, value in zip(PLACE_MARKS, place, strict=True):
            one = one.replace(mark, f"{value:010.3f}".encode())
        # Not in the order of the slices: a reader has to sort.
        (folder / f"{k * 7919 % 100003:06d}.dcm").write_bytes(one + element)
    return folder


def make_series(folder: Path, stack: Stack, syntax: str = "", count: int = 1) -> Path:
    """`count` series of the same pixels, each in a folder of its own; the first one's folder."""
    series = plan_series(stack)
    uid, encode = SYNTAXES.get(syntax, (NATIVE, lambda image, bits: image.tobytes()))
    bits = int(build_header(series).BitsStored)
    elements = [wrap_pixels(encode(image, bits), uid) for image in draw_images(stack)]
    for number in range(count):
        write_series(folder / f"{number:04d}", series, elements, uid, number)
    return folder / "0000"


def read_frames(folder: Path) -> list[Frame]:
    """The rows of a folder's files, as the lake would give them."""
    frames = []
    for path in folder.iterdir():
        size, read = path.stat().st_size, partial(read_range, str(path))
        header = read_header(read, size, read(0, 8192))
        assert isinstance(header, Header)
        for row in make_frame_rows(header):
            known = {name: row.get(name) for name in FRAME_COLUMNS}
            frames.append(Frame(**known | {"uri": str(path), "size_bytes": size}))
    return frames
