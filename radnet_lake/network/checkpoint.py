"""Checkpoints: the state of a network or a run <-> the bytes of one file.

A checkpoint holds `format`; `network`, the fields of NetworkSettings; `heads`, [name, kind,
classes] of each; `preprocessing` and `settings`, version and fields of the ResampleSettings whose
volumes it was trained on; `model`, the weights; `run`, where it comes from; and what a run needs to
go on. So old weights stay readable when the classes grow. A segmenter's holds `kind`, SEGMENTER,
and in place of the heads `decoder_width` and `organ`.

Two kinds of file: the best checkpoint of a run is a .safetensors file (weights_file.py), which is
what one publishes; the one to resume from is torch's own .pt, because the optimiser's state is no
flat list of tensors. Readers tell them apart by their content.

Files are not trusted: only tensors and plain values are read from them (`weights_only`), of a
bounded size, and a wrong one raises CheckpointError.
"""

import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import nn

from radnet_lake.errors import CheckpointError, SettingError, StoreError
from radnet_lake.network.heads import Head
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.network.weights_file import check_plain, decode_safetensors, is_safetensors
from radnet_lake.storage.sources import absolute_uri, open_file

FORMAT = 1
"""Of the dict; a reader refuses a larger one."""
SEGMENTER = "segmenter"
"""The `kind` of a segmenter's checkpoint; one of a RadNet has none."""
BEST = ("checkpoints/best.safetensors", "checkpoints/best.pt")
"""Places in a run's folder of the checkpoint of the lowest validation loss; .pt: of old runs."""
MAX_BYTES = 8 << 30
"""Of a file: eight times ResNet-101 with Adam's state."""
THE_CHECKPOINT = "the checkpoint"
"""Named in errors of a state whose file is no longer known."""
PIECE_BYTES = 16 << 20
"""Read at a time, because a store's time-out is per request."""

Network = TypeVar("Network", bound=nn.Module)


def describe_network(network: RadNet) -> dict[str, Any]:
    """A network -> the part of a checkpoint that build_network needs: shape, heads, weights."""
    return {
        "format": FORMAT,
        "network": asdict(network.config),
        "heads": [[head.name, head.kind, list(head.classes)] for head in network.labels],
        "model": network.state_dict(),
    }


def encode_checkpoint(state: dict[str, Any]) -> bytes:
    """A checkpoint -> its .pt file.

    Raises TypeError for a value that decode_checkpoint would refuse, as a NumPy number: when it is
    written, not when the run is resumed.
    """
    check_plain(state, "state")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def decode_checkpoint(data: bytes, where: str) -> dict[str, Any]:
    """The bytes of a .safetensors or .pt file -> its checkpoint, tensors on the CPU.

    where: the file's name, for errors. Raises CheckpointError for a file that is damaged, foreign,
    or of a newer format.
    """
    with _refuse_damage(where):
        damaged = None
        if not is_safetensors(data):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                # torch does not compare checksums, so a flipped bit would not be noticed.
                damaged = archive.testzip()
        state = None if damaged else _load(data)
    if damaged:
        raise _damaged(where)
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        remedy = "foreign weights go into a new network: radnet-lake train --init FILE"
        raise CheckpointError("this is no checkpoint of radnet_lake", where, remedy)
    if state["format"] > FORMAT:
        what = f"the checkpoint's format is {state['format']}, this radnet_lake knows {FORMAT}"
        raise CheckpointError(what, where, "update radnet_lake")
    return state


def build_network(state: dict[str, Any]) -> RadNet:
    """A checkpoint -> its network with weights and heads, in eval mode, on the CPU.

    Raises CheckpointError for an inconsistent checkpoint and for a segmenter's.
    """
    refuse_segmenter(state)

    def build() -> RadNet:
        heads = tuple(Head(name, kind, tuple(classes)) for name, kind, classes in state["heads"])
        return RadNet(NetworkSettings(**state["network"]), heads)

    return build_module(build, state)


def refuse_segmenter(state: dict[str, Any]) -> None:
    """Raise CheckpointError for the checkpoint of a segmenter, where labels are wanted."""
    if state.get("kind") == SEGMENTER:
        what = "these are weights of a segmenter, which predicts no labels"
        raise CheckpointError(what, THE_CHECKPOINT, "give a run of radnet-lake train")


def build_module(build: Callable[[], Network], state: dict[str, Any]) -> Network:
    """A constructor and a checkpoint -> the module with the checkpoint's weights, in eval mode.

    Raises CheckpointError where the weights are not those of the module.
    """
    try:
        model = dict(state["model"])
        # Without memory, which is allocated once the file is known to hold such weights.
        with torch.device("meta"):
            network = build()
    except (SettingError, KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"it describes no network ({type(error).__name__})"
        raise CheckpointError(what, THE_CHECKPOINT, "use another checkpoint of the run") from error
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: getattr(tensor, "shape", None) for name, tensor in model.items()} != wanted:
        what = "its weights are not those of the network that it describes"
        raise CheckpointError(what, THE_CHECKPOINT, "use another checkpoint of the run")
    network.to_empty(device="cpu").load_state_dict(model)
    return network.eval()


def load_network(uri: str) -> RadNet:
    """A run's folder (its best checkpoint) or a checkpoint's file -> the trained network.

    uri: local or s3://. Raises CheckpointError, SettingError where nothing is there, StoreError.
    """
    return build_network(decode_checkpoint(*read_file(uri)))


def read_state(data: bytes, where: str) -> object:
    """The bytes of any file of weights -> what it holds, tensors on the CPU.

    Raises CheckpointError for a file that is damaged or holds code.
    """
    with _refuse_damage(where):
        return _load(data)


def read_file(uri: str) -> tuple[bytes, str]:
    """A run's folder or a file, local or s3:// -> bytes of its best checkpoint, the file's name.

    Raises SettingError where nothing is there, CheckpointError for a huge file, StoreError.
    """
    uri = absolute_uri(uri)
    for name in (*(f"{uri}/{best}" for best in BEST), uri):
        try:
            with open_file(name) as file:
                size = file.seek(0, io.SEEK_END)
                if size > MAX_BYTES:
                    remedy = f"files of more than {MAX_BYTES >> 30} GiB are not read"
                    raise CheckpointError(f"the file has {size} bytes", name, remedy)
                file.seek(0)
                return b"".join(iter(lambda: file.read(PIECE_BYTES), b"")), name
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            raise StoreError("the file cannot be read", name, "check permissions") from error
    what = f"neither a file of weights nor a run's folder with {BEST[0]}"
    raise SettingError(what, uri, "check the path, or train first: radnet-lake train --out RUN")


def _load(data: bytes) -> object:
    if is_safetensors(data):
        return decode_safetensors(data)
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # torch compresses nothing; a few bytes of deflate could expand to any size.
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise ValueError("a compressed member")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


@contextmanager
def _refuse_damage(where: str) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError:
        what = "the file holds more than weights: code, which is never run, or it is damaged"
        remedy = "ask its author for a plain state_dict"
        raise CheckpointError(what, where, remedy) from None
    except Exception as error:
        # Damaged bytes make the readers of ZIP and pickle fail in any way.
        raise _damaged(where) from error


def _damaged(where: str) -> CheckpointError:
    return CheckpointError("the file is damaged", where, "copy it again, or use another one")


def digest_weights(state: dict[str, Any]) -> str:
    """A checkpoint -> a digest that changes with any weight and with the network's shape."""
    digest = hashlib.blake2b(repr((state["network"], state["heads"])).encode(), digest_size=8)
    for name, weight in sorted(state["model"].items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
