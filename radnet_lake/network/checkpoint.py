"""Checkpoints: one dict in one file, and weights that others trained.

A checkpoint holds `format`; `network`, the fields of NetworkSettings; `heads`, [name, kind,
classes] of each; `preprocessing` and `settings`, version and fields of the ResampleSettings whose
volumes it was trained on; `model`, the weights; `run`, where it comes from; and what a run needs to
go on. So old weights stay readable when the classes grow. A segmenter's holds `kind`, SEGMENTER,
and in place of the heads `decoder_width` and `organ`.

Files are not trusted: only tensors and plain values are read out of them (`weights_only`), of a
bounded size, and a wrong one raises CheckpointError.
"""

import hashlib
import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from radnet_lake.errors import CheckpointError, SettingError, StoreError
from radnet_lake.network.heads import Head
from radnet_lake.network.resnet import NetworkSettings, RadNet
from radnet_lake.network.vnet import Segmenter
from radnet_lake.storage.sources import absolute_uri, open_file

FORMAT = 1
"""Of the dict; a reader refuses a larger one."""
SEGMENTER = "segmenter"
"""The `kind` of a segmenter's checkpoint; one of a RadNet has none."""
BEST = "checkpoints/best.pt"
"""Where a run's folder has the checkpoint that did best on the validation split."""
MOST_BYTES = 8 << 30
"""Of a file: eight times ResNet-101 with Adam's state."""
MOST_CHANNELS = 64
"""Of the input of others' weights, because a small file can claim any number (strides of 0)."""
DEEPEST = 4
"""Nested dictionaries around the weights of a file; bounded, because one may contain itself."""
THE_CHECKPOINT = "the checkpoint"
"""Named in errors of a state whose file is no longer known."""
PIECE_BYTES = 16 << 20
"""Read at a time, since a store's patience is per request."""

Network = TypeVar("Network", bound=nn.Module)


def describe_network(network: RadNet) -> dict[str, Any]:
    """The part of a checkpoint that build_network needs: format, network, heads, model."""
    return {
        "format": FORMAT,
        "network": asdict(network.config),
        "heads": [[head.name, head.kind, list(head.classes)] for head in network.labels],
        "model": network.state_dict(),
    }


def describe_segmenter(network: Segmenter, organ: str) -> dict[str, Any]:
    """The part of a checkpoint that build_segmenter needs. organ: what it segments."""
    return {
        "format": FORMAT,
        "kind": SEGMENTER,
        "organ": organ,
        "network": asdict(network.config),
        "decoder_width": network.decoder_width,
        "model": network.state_dict(),
    }


def encode_checkpoint(state: dict[str, Any]) -> bytes:
    """The file of a checkpoint.

    Raises TypeError for a value that decode_checkpoint would refuse, as a NumPy number: then, and
    not when the run is to go on.
    """
    _check_plain(state, "state")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def decode_checkpoint(data: bytes, where: str) -> dict[str, Any]:
    """The checkpoint in a file's bytes, tensors on the CPU. where: the file's name, for errors.

    Raises CheckpointError for one that is damaged, foreign, or of a newer format.
    """
    with _refuse_damage(where):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # torch does not compare checksums, so a flipped bit would go unseen.
            damaged = archive.testzip()
        state = None if damaged else _load(data)
    if damaged:
        raise _damaged(where)
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        remedy = "weights of others go into a new network: radnet-lake train --init FILE"
        raise CheckpointError("this is no checkpoint of radnet_lake", where, remedy)
    if state["format"] > FORMAT:
        what = f"the checkpoint's format is {state['format']}, this radnet_lake knows {FORMAT}"
        raise CheckpointError(what, where, "update radnet_lake")
    return state


def build_network(state: dict[str, Any]) -> RadNet:
    """The network of a checkpoint with its weights and heads, in eval mode, on the CPU.

    Raises CheckpointError where the checkpoint does not hold together, or is a segmenter's.
    """
    refuse_segmenter(state)

    def build() -> RadNet:
        heads = tuple(Head(name, kind, tuple(classes)) for name, kind, classes in state["heads"])
        return RadNet(NetworkSettings(**state["network"]), heads)

    return _build(build, state)


def refuse_segmenter(state: dict[str, Any]) -> None:
    """Raise CheckpointError for the checkpoint of a segmenter, where labels are wanted."""
    if state.get("kind") == SEGMENTER:
        what = "these are weights of a segmenter, which tells no labels"
        raise CheckpointError(what, THE_CHECKPOINT, "give a run of radnet-lake train")


def build_segmenter(state: dict[str, Any]) -> Segmenter:
    """The segmenter of a checkpoint with its weights, in eval mode, on the CPU.

    Raises CheckpointError where the checkpoint does not hold together, or is no segmenter's.
    """
    if state.get("kind") != SEGMENTER:
        what = "these are weights of a pretrained network, which has no decoder"
        raise CheckpointError(what, THE_CHECKPOINT, "give a run of radnet-lake liver train")
    return _build(
        lambda: Segmenter(NetworkSettings(**state["network"]), state["decoder_width"]), state
    )


def _build(build: Callable[[], Network], state: dict[str, Any]) -> Network:
    try:
        model = dict(state["model"])
        # Without memory: that is taken once the file is known to hold such weights.
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
    """The trained network of a run's folder (its best checkpoint), or of a checkpoint's file.

    uri: local or s3://. Raises CheckpointError, SettingError where nothing is there, StoreError.
    """
    return build_network(decode_checkpoint(*_read_weights(uri)))


def load_segmenter(uri: str) -> Segmenter:
    """The trained segmenter of a run's folder (its best checkpoint), or of a checkpoint's file.

    uri: local or s3://. Raises CheckpointError, SettingError where nothing is there, StoreError.
    """
    return build_segmenter(decode_checkpoint(*_read_weights(uri)))


def read_network_config(uri: str) -> NetworkSettings | None:
    """Shape of the network in one of our checkpoints; None for weights of others.

    uri, errors: as load_foreign.
    """
    data, where = _read_weights(uri)
    with _refuse_damage(where):
        state = _load(data)
    if not isinstance(state, dict) or "format" not in state or "network" not in state:
        return None
    try:
        return NetworkSettings(**state["network"])
    except (SettingError, TypeError) as error:
        what = f"it describes no network ({type(error).__name__})"
        raise CheckpointError(what, where, "use another checkpoint") from None


@dataclass(frozen=True)
class MatchReport:
    """What became of foreign weights, by names of the encoder.

    loaded; changed: of those, how the file's weight was made to fit; missing: not in the file, left
    as they were; misshapen: of another shape there, left as they were; unexpected: names in the
    file that the encoder does not have, left out (a classifier, as a rule).
    """

    loaded: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        wanted = len(self.loaded) + len(self.missing) + len(self.misshapen)
        lines = [f"{len(self.loaded)} of {wanted} weights of the encoder loaded"]
        for word in ("changed", "missing", "misshapen", "unexpected"):
            if names := getattr(self, word):
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                # The names are the file's: nothing in them may drive a terminal.
                some = (ascii(name[:99])[1:-1] for name in names[:5])
                lines.append(f"{word}: {', '.join(some)}{more}")
        return "\n".join(lines)


def load_foreign(network: RadNet | Segmenter, uri: str) -> MatchReport:
    """Load an encoder's weights by MedicalNet, MONAI, another 3D ResNet, or a run of ours.

    uri: file, or run's folder, local or s3://. First-layer weights of several input channels are
    summed, which is what such a network makes of a grey image in each channel. A bias before a
    batch normalisation (MONAI's shortcuts) is taken off its running mean: the same function.

    Raises CheckpointError where nothing fits, SettingError where nothing is there, StoreError.
    """
    data, where = _read_weights(uri)
    with _refuse_damage(where):
        found = _find_weights(_load(data))
    own = {
        name: tensor
        for name, tensor in network.encoder.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    changed = _fold_biases(found, own)
    conv1 = found.get("conv1.weight")
    if conv1 is not None and conv1.dim() == 5 and 1 < conv1.shape[1] <= MOST_CHANNELS:
        found["conv1.weight"] = conv1.sum(1, keepdim=True)
        changed.append(f"conv1.weight ({conv1.shape[1]} input channels summed)")
    fits = {name for name in own if name in found and found[name].shape == own[name].shape}
    if not fits:
        remedy = "give weights of a 3D ResNet whose layers are named conv1, bn1, layer1 to layer4"
        raise CheckpointError("no weight fits the encoder", where, remedy)
    with torch.no_grad():
        for name in fits:
            own[name].copy_(found[name])
    return MatchReport(
        loaded=tuple(name for name in own if name in fits),
        changed=tuple(changed),
        missing=tuple(name for name in own if name not in found),
        misshapen=tuple(
            f"{name} ({_size(found[name])} for {_size(own[name])})"
            for name in own
            if name in found and name not in fits
        ),
        unexpected=tuple(
            name for name in found if name not in own and not name.endswith("num_batches_tracked")
        ),
    )


def _find_weights(state: object) -> dict[str, Tensor]:
    """The tensors of a file by name, without what stands before the encoder's names."""
    for _ in range(DEEPEST):
        if not isinstance(state, Mapping) or any(isinstance(v, Tensor) for v in state.values()):
            break
        inner = [state[key] for key in ("model", "state_dict", "net") if key in state]
        if not inner:
            break
        state = inner[0]
    if not isinstance(state, Mapping):
        return {}
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    mark = "layer1.0.conv1.weight"
    prefix = next((key.removesuffix(mark) for key in tensors if key.endswith(mark)), "")
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


def _fold_biases(found: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    changed = []
    for name in [key for key in found if key.endswith("downsample.0.bias") and key not in own]:
        mean = name.replace("downsample.0.bias", "downsample.1.running_mean")
        fits = mean in own and mean in found
        if fits and own[mean].shape == found[mean].shape == found[name].shape:
            found[mean] = found[mean] - found.pop(name)
            changed.append(f"{mean} (less the convolution's bias)")
    return changed


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _read_weights(uri: str) -> tuple[bytes, str]:
    uri = absolute_uri(uri)
    for name in (f"{uri}/{BEST}", uri):
        try:
            with open_file(name) as file:
                size = file.seek(0, io.SEEK_END)
                if size > MOST_BYTES:
                    remedy = f"files of more than {MOST_BYTES >> 30} GiB are not read"
                    raise CheckpointError(f"the file has {size} bytes", name, remedy)
                file.seek(0)
                return b"".join(iter(lambda: file.read(PIECE_BYTES), b"")), name
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            raise StoreError("the file cannot be read", name, "check permissions") from error
    what = f"neither a file of weights nor a run's folder with {BEST}"
    raise SettingError(what, uri, "check the path, or train first: radnet-lake train --out RUN")


def _check_plain(value: Any, name: str) -> None:
    # By the exact type: a NumPy float is a float, but not to the reader.
    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            _check_plain(key, name)
            _check_plain(inner, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for inner in value:
            _check_plain(inner, name)
    elif not (value is None or type(value) in (str, bytes, int, float, bool, Tensor, Parameter)):
        raise TypeError(f"{name} is of {type(value)}, no plain value")


def _load(data: bytes) -> object:
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # torch compresses nothing; a few bytes of deflate could unfold to any size.
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
    """A name for the network of a checkpoint: changes with any weight and with its shape."""
    digest = hashlib.blake2b(repr((state["network"], state["heads"])).encode(), digest_size=8)
    for name, weight in sorted(state["model"].items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
