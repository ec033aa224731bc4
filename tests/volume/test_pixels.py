"""Stored values from files, slow disks, archives and S3, as the harvest found them."""

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from dicom_files import write
from image_files import (
    ENCODERS,
    J2K,
    NATIVE,
    draw,
    frames_of,
    make,
    make_image,
    place,
    read_all,
    reason_of,
    wrap,
)
from pydicom import uid as uids
from pydicom.encaps import encapsulate

from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.volume import pixels
from radnet_lake.volume.frame import Frame
from radnet_lake.volume.pixels import read_lookup, read_stored

if TYPE_CHECKING:
    from s3_server import S3Server


def test_order_and_choice_of_frames(tmp_path: Path) -> None:
    values = draw(9)
    frames = place(make(values), tmp_path / "multi.dcm")
    assert len(frames) == 9
    assert np.array_equal(read_all(frames, [7, 0, 3]), values[[7, 0, 3]])
    assert np.array_equal(read_all(frames[::-1]), values[::-1])
    assert list(read_stored(frames, [])) == []
    twice = [frames[2], frames[2]]
    assert np.array_equal(read_all(twice), values[[2, 2]])


def make_archives(folder: Path, files: dict[str, bytes]) -> dict[Path, dict[str, str]]:
    """Archives of the same files: path -> {file name: its name in the lake, below the archive}."""
    inner = folder / "inner.zip"
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(f"d/{name}", data)
    plain, squeezed, nested = folder / "a.tar", folder / "a.tgz", folder / "outer.tar"
    for path, mode in ((plain, "w:"), (squeezed, "w:gz")):
        with tarfile.open(path, mode) as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(f"d/{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    with tarfile.open(nested, "w") as tar:
        tar.add(inner, "x/inner.zip")
    own = {name: f"d/{name}" for name in files}
    deep = {name: f"x/inner.zip!/d/{name}" for name in files}
    return {inner: own, plain: own, squeezed: own, nested: deep}


def test_members_of_archives(tmp_path: Path) -> None:
    values = draw(6)
    files = {f"{n}.dcm": make(values[n : n + 1]) for n in range(4)}
    files["multi.dcm"] = make(values)
    files["deflated.dcm"] = make(values[:2], uids.DeflatedExplicitVRLittleEndian)
    packed = [bytes(ENCODERS[J2K](value)) for value in values[2:]]
    files["j2k.dcm"] = wrap(encapsulate(packed, has_bot=False), J2K, values[2:])
    wanted = {"3.dcm": values[3:4], "1.dcm": values[1:2], "multi.dcm": values}
    wanted |= {"deflated.dcm": values[:2], "j2k.dcm": values[2:]}
    for archive, members in make_archives(tmp_path, files).items():
        frames: list[Frame] = []
        for name in wanted:
            uri = f"{archive}!/{members[name]}"
            frames += frames_of(files[name], uri, archive_uri=str(archive))
        found = read_all(frames)
        assert np.array_equal(found, np.concatenate(list(wanted.values()))), archive.name
        gone = frames[0]._replace(uri=f"{archive}!/d/9.dcm")
        assert reason_of([gone]) == "changed"
        assert reason_of([frames[0]._replace(size_bytes=7)]) == "changed"
        whole = archive.read_bytes()
        archive.write_bytes(whole[: len(whole) // 3])
        assert reason_of(frames) in ("changed", "truncated_pixels")


def test_gzip_file_whose_size_is_not_known(tmp_path: Path) -> None:
    values = draw(3)
    path = tmp_path / "a.dcm.gz"
    path.write_bytes(gzip.compress(make(values)))
    known = {"archive_uri": str(path), "size_bytes": None}
    frames = frames_of(make(values), f"{path}!/a.dcm", **known)
    assert np.array_equal(read_all(frames), values)
    path.write_bytes(path.read_bytes()[:-30])
    assert reason_of(frames) == "truncated_pixels"


def test_changed_and_vanished_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    frames = place(make(draw()), path)
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert reason_of(frames) == "changed"
    path.unlink()
    assert reason_of(frames) == "vanished"
    path.mkdir()
    assert reason_of(frames) == "unreadable"


def test_slow_disks_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "SLOW_OBJECT_S", -1.0)
    values = draw(30)
    frames: list[Frame] = []
    for n in range(30):
        frames += place(make(values[n : n + 1]), tmp_path / f"{n}.dcm")
    assert np.array_equal(read_all(frames), values)
    Path(frames[25].uri).unlink()
    assert reason_of(frames) == "vanished"
    Path(frames[20].uri).write_bytes(b"")
    assert reason_of(frames[:25]) == "changed"


def test_huge_objects_are_read_frame_by_frame(tmp_path: Path) -> None:
    """50,000 frames, 3 GB of them zeros that take no space on the disk."""
    n_frames, side = 50_000, 180
    data = make(np.zeros((1, side, side), "<u2"), NumberOfFrames=n_frames)
    at = data.index(b"\xe0\x7f\x10\x00OW")
    path = tmp_path / "huge.dcm"
    with path.open("wb") as file:
        file.write(data[: at + 8] + struct.pack("<I", n_frames * side * side * 2))
        file.seek(49_999 * side * side * 2, 1)
        file.write(np.full((side, side), 7, "<u2").tobytes())
    frame = frames_of(data, str(path), size_bytes=path.stat().st_size)[0]
    frames = [frame._replace(frame_number=n + 1) for n in range(n_frames)]
    tracemalloc.start()
    found = [(index, int(values[0, 0])) for index, values in read_stored(frames, [49_999, 3, 700])]
    n_all = sum(1 for _ in read_stored(frames[:1000]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(3, 0), (700, 0), (49_999, 7)]
    assert n_all == 1000
    assert peak < 8 << 20


def test_objects_on_s3(s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "PIECE_BYTES", 300)
    bucket, values = s3.bucket(), draw(8)
    packed = [bytes(ENCODERS[J2K](value)) for value in values]
    files = {f"s/{n}.dcm": make(values[n : n + 1]) for n in range(8)}
    files["multi.dcm"] = make(values)
    files["implicit.dcm"] = make(values, uids.ImplicitVRLittleEndian)
    files["deflated.dcm"] = make(values, uids.DeflatedExplicitVRLittleEndian)
    files["j2k.dcm"] = wrap(encapsulate(packed, has_bot=False), J2K, values)
    frames: list[Frame] = []
    for key, data in files.items():
        s3.put(bucket, key, data)
        frames += frames_of(data, f"s3://{bucket}/{key}")
    assert np.array_equal(read_all(frames), np.concatenate([values] * 5))
    some = [12, 9, 31, 2, 23, 38]
    assert np.array_equal(read_all(frames, some), values[[4, 1, 7, 2, 7, 6]])

    multi, single = frames[8:16], frames[3:4]
    for data in (files["multi.dcm"] + b"\0", files["multi.dcm"][:-1]):
        s3.put(bucket, "multi.dcm", data)
        assert reason_of(multi, [1]) == "changed"
    s3.put(bucket, "s/3.dcm", files["s/3.dcm"] + b"\0")
    assert reason_of(single) == "changed"
    s3.put(bucket, "s/3.dcm", b"")
    assert reason_of(single) == "changed"
    gone = single[0]._replace(uri=f"s3://{bucket}/s/30.dcm")
    assert reason_of([*frames[:3], gone]) == "vanished"
    nowhere = single[0]._replace(uri=f"s3://{bucket}-none/s/3.dcm")
    with pytest.raises(SettingError):
        read_all([nowhere])


def test_archive_on_s3(s3: "S3Server", tmp_path: Path) -> None:
    bucket, values = s3.bucket(), draw(3)
    files = {f"{n}.dcm": make(values[n : n + 1]) for n in range(3)}
    path = next(iter(make_archives(tmp_path, files)))
    s3.put(bucket, "a.zip", path.read_bytes())
    uri = f"s3://{bucket}/a.zip"
    frames = [
        frame
        for name, data in files.items()
        for frame in frames_of(data, f"{uri}!/d/{name}", archive_uri=uri)
    ]
    assert np.array_equal(read_all(frames), values)


def make_lookup(syntax: str, entries: Sequence[int], first: int, bits: int, **others: Any) -> bytes:
    item = pydicom.Dataset()
    signed = others.get("PixelRepresentation", 0)
    item.add_new(0x00283002, "SS" if signed else "US", [len(entries), first, bits])
    item.add_new(0x00283004, "LO", "HU")
    item.add_new(0x00283006, "US", list(entries))
    ds = make_image(draw(), syntax, **others)
    ds.ModalityLUTSequence = [item]
    return write(ds, syntax, None)


@pytest.mark.parametrize("syntax", NATIVE)
def test_modality_lookup_table(syntax: str, tmp_path: Path) -> None:
    entries = [0, 40_000, 7, 65_535, 1]
    frames = place(make_lookup(syntax, entries, 40, 16), tmp_path / "a.dcm")
    assert frames[0].has_modality_lut
    found, first = read_lookup(frames[0])
    assert found.dtype == np.float64
    assert (found.tolist(), first) == (entries, 40)
    data = make_lookup(syntax, entries, -3, 16, PixelRepresentation=1)
    assert read_lookup(place(data, tmp_path / "b.dcm")[0])[1] == -3


def test_damaged_lookup_table_and_none_at_all(tmp_path: Path) -> None:
    data = make_lookup(NATIVE[1], [1, 2, 3], 0, 16)
    data = data.replace(b"US\x06\x00\x03\x00\x00\x00", b"US\x06\x00\x09\x00\x00\x00")
    for frame in (place(data, tmp_path / "a")[0], place(make(draw()), tmp_path / "b")[0]):
        with pytest.raises(VolumeError, match="bad_rescale"):
            read_lookup(frame)
