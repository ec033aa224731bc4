"""Initial weights: a file of any 3D ResNet in, its weights in our encoder and a MatchReport out."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network.checkpoint import read_file, read_state
from radnet_lake.network.resnet import Encoder, NetworkSettings

MAX_CHANNELS = 64
"""Of a first layer whose channels are summed: a small file can claim any number (strides of 0)."""
MAX_NESTING = 4
"""Dictionaries around the weights of a file; one may contain itself."""


def read_network_config(uri: str) -> NetworkSettings | None:
    """A checkpoint of ours -> the shape of its network; None for foreign weights.

    uri, errors: as load_foreign.
    """
    data, where = read_file(uri)
    state = read_state(data, where)
    if not isinstance(state, dict) or "format" not in state or "network" not in state:
        return None
    try:
        return NetworkSettings(**state["network"])
    except (SettingError, TypeError) as error:
        what = f"it describes no network ({type(error).__name__})"
        raise CheckpointError(what, where, "use another checkpoint") from None


@dataclass(frozen=True)
class MatchReport:
    """How the weights of a file match the encoder, by names of the encoder.

    loaded; changed: those of them that were converted, and how; missing: not in the file, unchanged
    in the encoder; misshapen: of another shape in the file, unchanged in the encoder; unexpected:
    names in the file that the encoder does not have (a classifier, as a rule).
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


def load_foreign(encoder: Encoder, uri: str) -> MatchReport:
    """Load weights of MedicalNet, MONAI, another 3D ResNet or a run of ours into an encoder.

    uri: .safetensors or .pt file, or run's folder, local or s3://. First-layer weights of several
    input channels are summed, which is what such a network computes for a grey image in each
    channel. A bias before a batch normalisation (MONAI's shortcuts) is subtracted from its running
    mean: the same function.

    Raises CheckpointError where nothing fits, SettingError where nothing is there, StoreError.
    """
    data, where = read_file(uri)
    found = _find_weights(read_state(data, where))
    own = {
        name: tensor
        for name, tensor in encoder.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    changed = _fold_biases(found, own)
    conv1 = found.get("conv1.weight")
    if conv1 is not None and conv1.dim() == 5 and 1 < conv1.shape[1] <= MAX_CHANNELS:
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
    """Content of a file -> its tensors by name, without the prefix of the encoder's names."""
    for _ in range(MAX_NESTING):
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
