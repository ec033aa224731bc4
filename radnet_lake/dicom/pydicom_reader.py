"""Takes a file that scan.py declines, gives its raw values in the same form, read by pydicom.

Such files are big endian, or have wrong VRs or invalid lengths.
"""

import io
from collections.abc import Iterable
from typing import Any, NamedTuple

import pydicom
from pydicom import filereader
from pydicom.dataelem import RawDataElement

from radnet_lake.dicom.scan import PIXEL_KEYS, Raw, Wanted, make_key
from radnet_lake.dicom.values import BINARY_FORMATS, quiet_pydicom

END_OF_FILE = "the end"
"""Name of the file object, with which pydicom ends its warning of a truncated data set."""

PrivateKey = tuple[bytes, int, int]
"""Private creator, group, last two digits of the element."""


class PydicomReading(NamedTuple):
    """A data set as pydicom reads it.

    meta: transfer syntax, SOP class and SOP instance of the file meta group. is_truncated: the file
    ends inside the data set.
    """

    dataset: pydicom.Dataset
    values: dict[int, Raw]
    private: dict[PrivateKey, Raw]
    explicit: bool
    order: str
    meta: tuple[str, str, str]
    is_truncated: bool


def read_dataset(
    file: io.RawIOBase, is_bare: bool, wanted: Wanted, places: Iterable[PrivateKey]
) -> PydicomReading:
    """File -> its wanted and private elements before the pixel data.

    is_bare: no preamble and no meta group, explicit little endian (an inflated data set). places:
    wanted private elements. Raises any Exception, as pydicom does on damaged input.
    """
    with quiet_pydicom() as warned:
        if is_bare:
            dataset = filereader.read_dataset(file, False, True, stop_when=_is_pixel_data)
            meta = pydicom.Dataset()
        else:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            meta = dataset.file_meta
        keywords = ("TransferSyntaxUID", "MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID")
        syntax, sop_class, instance = (str(meta.get(keyword) or "") for keyword in keywords)
        implicit, little = dataset.original_encoding
        found = _collect_wanted(dataset, wanted)
        private = _collect_private(dataset, places)
    return PydicomReading(
        dataset,
        found,
        private,
        explicit=implicit is not True,
        order=">" if little is False else "<",
        meta=(syntax, sop_class, instance),
        is_truncated=any(message.endswith(f" in file {END_OF_FILE}") for message in warned),
    )


def _is_pixel_data(tag: int, _vr: str | None, _length: int) -> bool:
    return make_key(tag) in PIXEL_KEYS


def _collect_private(
    dataset: pydicom.Dataset, places: Iterable[PrivateKey]
) -> dict[PrivateKey, Raw]:
    found: dict[PrivateKey, Raw] = {}
    for creator, group, element in places:
        try:
            block = dataset.private_block(group, creator.decode())
        except KeyError:
            continue
        raw = _raw_of(dataset, block.get_tag(element))
        if raw is not None:
            found[creator, group, element] = raw
    return found


def _collect_wanted(dataset: pydicom.Dataset, wanted: Wanted) -> dict[int, Raw]:
    found: dict[int, Raw] = {}
    for key, (vr, inside) in wanted.items():
        tag = (key & 0xFFFF) << 16 | key >> 16
        if tag not in dataset:
            continue
        if vr == b"SQ":
            items = dataset[tag].value
            if isinstance(items, pydicom.Sequence):
                found[key] = [_collect_wanted(item, inside) for item in items]
            continue
        raw = _raw_of(dataset, tag)
        if raw is not None:
            found[key] = raw[1] if isinstance(raw, tuple) and raw[0] in (vr, b"") else raw
    return found


def _raw_of(dataset: pydicom.Dataset, tag: Any) -> Raw | None:
    if tag not in dataset:
        return None
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        return ((element.VR or "").encode(), element.value or b"")
    if element is None or element.VR == "SQ":
        return None
    value = element.value
    if isinstance(value, bytes):
        return (element.VR.encode(), value)
    # pydicom has converted this value already, so numbers are given as text.
    parts = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    text = "\\".join("" if p is None else str(p) for p in parts).encode("utf-8", "replace")
    vr: bytes = element.VR.encode()
    return (b"LO" if vr in BINARY_FORMATS else vr, text)
