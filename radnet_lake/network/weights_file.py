"""A checkpoint <-> the bytes of a .safetensors file, the format for weights that one publishes.

The tensors are the network's weights. The metadata `radnet_lake` is the rest of the checkpoint as
JSON: format, network, heads, preprocessing, provenance. Such a file holds no code, and any program
that reads safetensors can load it.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import Parameter

SUFFIX = ".safetensors"
KEY = "radnet_lake"
"""Of the metadata that holds the checkpoint without its weights."""
DIGEST = "radnet_lake_digest"
"""Of the metadata and the weights, because the format has no checksum."""
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20
"""A header has about 100 bytes a weight; a larger one is no network's."""


def encode_safetensors(state: dict[str, Any]) -> bytes:
    """A checkpoint without optimiser -> its .safetensors file.

    Raises TypeError for a value that JSON cannot hold, as a NumPy number.
    """
    rest = {name: value for name, value in state.items() if name != "model"}
    check_plain(rest, "state")
    # Weights may lie in channels_last order; the file has one order.
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in state["model"].items()}
    text = json.dumps(rest)
    metadata = {"format": "pt", KEY: text, DIGEST: _digest(text, tensors)}
    return bytes(safetensors.torch.save(tensors, metadata))


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins like safetensors: a length, then JSON. Neither ZIP nor pickle does."""
    return data[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"


def decode_safetensors(data: bytes) -> dict[str, Any]:
    """The bytes of a .safetensors file -> its checkpoint; of a foreign file, its tensors by name.

    Raises ValueError, SafetensorError or another error for a damaged file, before memory for
    tensors is allocated: the library compares names, shapes and offsets with the file first.
    """
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES):
        raise ValueError("the header is longer than the file, or than any network's")
    header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])
    tensors: dict[str, Tensor] = safetensors.torch.load(data)
    metadata = header.get("__metadata__", {})
    if KEY not in metadata:
        return dict(tensors)
    if metadata.get(DIGEST) != _digest(metadata[KEY], tensors):
        raise ValueError("the digest is another one")
    rest = json.loads(metadata[KEY])
    if not isinstance(rest, dict):
        raise ValueError("the description of the network is no object")
    return rest | {"model": tensors}


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_plain(value: Any, name: str) -> None:
    """Raise TypeError unless a value consists of what checkpoints may hold."""
    # By the exact type: a NumPy float is a float, but not to the reader.
    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            check_plain(key, name)
            check_plain(inner, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for inner in value:
            check_plain(inner, name)
    elif not (value is None or type(value) in (str, bytes, int, float, bool, Tensor, Parameter)):
        raise TypeError(f"{name} is of {type(value)}, no plain value")
