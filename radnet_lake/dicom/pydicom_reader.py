"""pydicom reads what the own scanner does not: big endian, wrong VRs, odd lengths.

Gives raw values in the scanner's form, so that both ways end in the same conversion.
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
"""Name of the file object that is read: pydicom ends its warning of a cut data set with it."""

PrivatePlace = tuple[bytes, int, int]
"""Private creator, group, the element's last two digits."""


class Reading(NamedTuple):
    """What pydicom makes of a data set.

    meta: transfer syntax, SOP class and SOP instance of the file meta group. met_end: the file ends
    inside the data set.
    """

    dataset: pydicom.Dataset
    values: dict[int, Raw]
    private: dict[PrivatePlace, Raw]
    explicit: bool
    order: str
    meta: tuple[str, str, str]
    met_end: bool


def read_dataset(
    file: io.RawIOBase, is_bare: bool, wanted: Wanted, places: Iterable[PrivatePlace]
) -> Reading:
    """Read `file` up to its pixel data.

    is_bare: no preamble and no meta group, explicit little endian (what was deflated). wanted,
    places: what to give. Raises what pydicom raises on damaged input, which is any Exception.
    """
    with quiet_pydicom() as warned:
        if is_bare:
            dataset = filereader.read_dataset(file, False, True, stop_when=_is_pixel_data)
            meta = pydicom.Dataset()
        else:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            meta = dataset.file_meta
        words = ("TransferSyntaxUID", "MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID")
        syntax, sop_class, instance = (str(meta.get(word) or "") for word in words)
        implicit, little = dataset.original_encoding
        found = _collect_wanted(dataset, wanted)
        private = _collect_private(dataset, places)
    return Reading(
        dataset,
        found,
        private,
        explicit=implicit is not True,
        order=">" if little is False else "<",
        meta=(syntax, sop_class, instance),
        met_end=any(message.endswith(f" in file {END_OF_FILE}") for message in warned),
    )


def _is_pixel_data(tag: int, _vr: str | None, _length: int) -> bool:
    return make_key(tag) in PIXEL_KEYS


def _collect_private(
    dataset: pydicom.Dataset, places: Iterable[PrivatePlace]
) -> dict[PrivatePlace, Raw]:
    found: dict[PrivatePlace, Raw] = {}
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
    # pydicom has read this one already: its number is text now, whatever its VR was.
    parts = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    text = "\\".join("" if p is None else str(p) for p in parts).encode("utf-8", "replace")
    vr: bytes = element.VR.encode()
    return (b"LO" if vr in BINARY_FORMATS else vr, text)
