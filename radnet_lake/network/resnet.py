"""The 3D ResNet with a head for each label (3D-RADNet 2.2).

Shapes: B volumes, C channels, D slices, H rows, W columns. It knows no device and no Ray; autocast,
compilation and DDP are put on where it is trained. Weights are named as torchvision, MONAI and
MedicalNet name them, so that theirs can be loaded (foreign.load_foreign).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radnet_lake.errors import SettingError
from radnet_lake.network.heads import Head, read_heads
from radnet_lake.settings import name_flag

DEPTHS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
"""Depth -> blocks of layer1 to layer4 (He et al. 2015, table 1; 10 is MedicalNet's)."""
BOTTLENECK_FROM = 50
"""From this depth on, blocks have three convolutions."""
NORMS = ("batch", "group")
MIN_SIDE = 8
"""Voxels along each axis: layer2 makes one of so many."""


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of the network. The defaults are the paper's."""

    depth: int = field(default=50, metadata={"choices": tuple(DEPTHS)})
    """depth of the 3D ResNet"""
    width: int = 64
    """channels of its first layer; 64 is the paper's, 16 learns on a laptop"""
    features: int = 1000
    """width of the fully connected layer before the heads"""
    norm: str = field(default="batch", metadata={"choices": NORMS})
    """normalisation; group does not depend on the batch: for batches of one or two a worker"""
    encoder: str = "resnet"
    """resnet: the classic strides; medicalnet: dilated layers 3 and 4, as MedicalNet's weights"""
    stem_stride: int = 2
    """stride of the first convolution; 1 for volumes much smaller than 48x192x192"""
    standardise: bool = False
    """zero mean, unit deviation in each volume: what MedicalNet's weights want; else 0 to 1"""

    def __post_init__(self) -> None:
        for name, choices in (
            ("depth", tuple(DEPTHS)),
            ("norm", NORMS),
            ("encoder", tuple(ENCODERS)),
            ("stem_stride", (1, 2)),
        ):
            if (value := getattr(self, name)) not in choices:
                remedy = f"use {', '.join(map(str, choices))}"
                raise SettingError(f"{value!r} is unknown", name_flag(name), remedy)
        for name, most in (("width", 256), ("features", 65_536)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise SettingError(
                    f"{value!r} is out of range", name_flag(name), f"give 1 to {most}"
                )


class Output(NamedTuple):
    """Predictions of the network for a batch.

    logits: head -> (B, classes), before softmax or sigmoid; of a scalar head (B, 1): spacing in cm,
    so that its error is of the size of the other losses. features: (B, features), after the ReLU.
    """

    logits: dict[str, Tensor]
    features: Tensor


class RadNet(nn.Module):
    """Encoder, global average, one fully connected layer with ReLU, and a linear head per label.

    heads: what to predict; by default the labels of sql/classes.csv.
    """

    def __init__(self, config: NetworkSettings, heads: tuple[Head, ...] | None = None) -> None:
        super().__init__()
        self.config = config
        self.labels = read_heads() if heads is None else heads
        self.encoder = ENCODERS[config.encoder](config)
        self.features = nn.Linear(self.encoder.channels[-1], config.features)
        self.heads = nn.ModuleDict(
            {head.name: nn.Linear(config.features, len(head.classes)) for head in self.labels}
        )

    def forward(self, volume: Tensor) -> Output:
        """volume: (B, 1, D, H, W) grey levels 0..255, uint8 or float, of any size from 8 on.

        Raises SettingError for another shape.
        """
        dtype = self.features.weight.dtype
        x = self.encoder(scale_grey(volume, self.config.standardise).to(dtype))[-1]
        # Heads run in full precision, under autocast too: it costs next to nothing.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(dtype).mean((2, 3, 4))  # (B, C, D, H, W) -> (B, C)
            features = F.relu(self.features(x))
            return Output({name: head(features) for name, head in self.heads.items()}, features)


def scale_grey(volume: Tensor, standardise: bool = False) -> Tensor:
    """Grey levels 0..255 -> input of an encoder, float32 of the same shape.

    By default 0..1: blank slices and air stay 0, as the zeros that convolutions pad with, and the
    value of a voxel does not depend on the number of blank slices. standardise: (v - mean) / sd
    over each volume's voxels above 0, the rest 0 (Chen et al. 2019: MedicalNet).
    """
    x = volume.float()
    if not standardise:
        return x / 255
    axes = (1, 2, 3, 4)
    inside = x > 0
    count = inside.sum(axes, keepdim=True).clamp(min=1)
    centred = (x - x.sum(axes, keepdim=True) / count) * inside
    deviation = (centred.square().sum(axes, keepdim=True) / count).sqrt()
    return centred / deviation.clamp(min=1)


class Encoder(nn.Module):
    """A 3D ResNet without its classifier: volumes -> feature maps of five stages.

    channels: of each stage: stem, layer1 to layer4. strides: input voxels per
    voxel of each stage, along (D, H, W). dilations: 1, or above it in place of a layer's stride.
    padded_shortcuts: see PaddedShortcut.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        config: NetworkSettings,
        dilations: tuple[int, int, int, int] = (1, 1, 1, 1),
        padded_shortcuts: bool = False,
    ) -> None:
        super().__init__()
        block = Bottleneck if config.depth >= BOTTLENECK_FROM else BasicBlock
        make_norm = _batch_norm if config.norm == "batch" else group_norm
        self.frozen = 0
        self.conv1 = nn.Conv3d(1, config.width, 7, stride=config.stem_stride, padding=3, bias=False)
        self.bn1 = make_norm(config.width)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        channels, strides = [config.width], [config.stem_stride]
        for n, blocks in enumerate(DEPTHS[config.depth]):
            stride = 2 if n > 0 and dilations[n] == 1 else 1
            width = config.width * 2**n
            layer = [
                block(
                    channels[-1] if k == 0 else width * block.expansion,
                    width,
                    stride if k == 0 else 1,
                    dilations[n],
                    padded_shortcuts,
                    make_norm,
                )
                for k in range(blocks)
            ]
            self.add_module(f"layer{n + 1}", nn.Sequential(*layer))
            channels.append(width * block.expansion)
            strides.append(strides[-1] * (2 if n == 0 else stride))
        self.channels = tuple(channels)
        self.strides = tuple((n, n, n) for n in strides)
        self._initialise()

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (B, 1, D, H, W), scaled by scale_grey. Gives (B, channels, D/stride, ...) a stage.

        Sizes are rounded up. Raises SettingError for a shape that it cannot take.
        """
        self._check(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, 1, D, H, W) -> (B, C, D/2, ...)
        stages = [x]
        x = self.maxpool(x)
        for layer in self._layers():
            x = layer(x)
            stages.append(x)
        return stages

    def freeze(self, layers: int) -> None:
        """Freeze the stem and the first `layers` layers (0 to 4), running statistics included."""
        if not 0 <= layers <= 4:
            raise SettingError(f"{layers} layers cannot be frozen", "freeze", "give 0 to 4")
        self.frozen = 1 + layers
        for module in self._fixed():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Encoder":
        """Set training or eval mode; frozen layers stay in eval mode."""
        super().train(mode)
        for module in self._fixed():
            module.eval()
        return self

    def _layers(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def _fixed(self) -> list[nn.Module]:
        stages = [nn.ModuleList([self.conv1, self.bn1]), *self._layers()]
        return stages[: self.frozen]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                # Bottlenecks start as identity (Goyal et al. 2017, 5.1). In a small trial depth 50
                # converged far faster so, depths 10 and 18 far slower: theirs start as usual.
                nn.init.zeros_(module.bn3.weight)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 5 or x.shape[1] != 1 or min(x.shape[2:]) < MIN_SIDE:
            what = f"a batch of shape {'x'.join(map(str, x.shape))} does not fit the network"
            remedy = f"volumes are (B, 1, D, H, W), each side {MIN_SIDE} voxels or more"
            raise SettingError(what, "--slices, --rows, --columns", remedy)
        alone = x.shape[0] == 1 and max(x.shape[2:]) <= self.strides[-1][0]
        if alone and self.layer4.training and isinstance(self.bn1, nn.BatchNorm3d):
            what = "batch normalisation cannot learn from one volume this small"
            raise SettingError(what, "--batch", "use larger batches, or --norm group")


Norm = nn.BatchNorm3d | nn.GroupNorm
MakeNorm = Callable[[int], Norm]


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        dilation: int,
        padded_shortcut: bool,
        make_norm: MakeNorm,
    ) -> None:
        super().__init__()
        self.conv1 = conv3(inputs, width, stride, dilation)
        self.bn1 = make_norm(width)
        self.conv2 = conv3(width, width, 1, dilation)
        self.bn2 = make_norm(width)
        self.downsample = _shortcut(inputs, width, stride, padded_shortcut, make_norm)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, D, H, W) -> (B, width, D/stride, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 with the stride, 1x1x1 to four times the channels, and a shortcut."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        dilation: int,
        padded_shortcut: bool,
        make_norm: MakeNorm,
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
        self.bn1 = make_norm(width)
        self.conv2 = conv3(width, width, stride, dilation)
        self.bn2 = make_norm(width)
        self.conv3 = nn.Conv3d(width, outputs, 1, bias=False)
        self.bn3 = make_norm(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, padded_shortcut, make_norm)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, D, H, W) -> (B, 4 width, D/stride, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += self.downsample(x)
        return F.relu(y, inplace=True)


class PaddedShortcut(nn.Module):
    """A shortcut without weights: every stride-th voxel, and zeros for the missing channels.

    He et al. 2015, option A; MedicalNet's depths 18 and 34 were trained with it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.lacking, self.stride = outputs - inputs, stride

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, D, H, W) -> (B, outputs, D/stride, H/stride, W/stride)."""
        n = self.stride
        return F.pad(x[:, :, ::n, ::n, ::n], (0, 0, 0, 0, 0, 0, 0, self.lacking))


def _shortcut(
    inputs: int, outputs: int, stride: int, padded: bool, make_norm: MakeNorm
) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if padded:
        return PaddedShortcut(inputs, outputs, stride)
    conv = nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Sequential(conv, make_norm(outputs))


def conv3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv3d:
    """A 3x3x3 convolution without bias: (B, inputs, D, H, W) -> (B, outputs, D/stride, ...)."""
    return _Conv3d(
        inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
    )


class _Conv3d(nn.Conv3d):
    """A 3D convolution that runs in float32 where bfloat16 on a CPU meets an input of two slices.

    Because with torch 2.13 the gradient of its weights is uninitialised memory there. Of 48 slices
    layer4 has two.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.shape[2] == 2 and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


def _batch_norm(channels: int) -> Norm:
    return nn.BatchNorm3d(channels)


def group_norm(channels: int) -> nn.GroupNorm:
    """16 channels a group (Wu and He 2018, table 3); fewer groups where they do not divide."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)


def _build_resnet(config: NetworkSettings) -> Encoder:
    return Encoder(config)


def _build_medicalnet(config: NetworkSettings) -> Encoder:
    return Encoder(config, (1, 1, 2, 4), padded_shortcuts=config.depth in (18, 34))


ENCODERS: dict[str, Callable[[NetworkSettings], Encoder]] = {
    "resnet": _build_resnet,
    "medicalnet": _build_medicalnet,
}
"""NetworkSettings.encoder -> what builds it. Contract: (B, 1, D, H, W) float -> list of feature
maps, with `channels` and `strides` of each."""
