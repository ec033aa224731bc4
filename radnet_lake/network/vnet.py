"""The segmentation network: grey volumes in, logits of the organ out, by encoder and decoder.

After V-Net (Milletari et al. 2016; 3D-RADNet 2.3): from the deepest stage up, each level
up-samples, concatenates the encoder's stage of that size, and adds two convolutions of both. The
last level takes the grey image itself. This module knows no device and no Ray.

Shapes: B windows, C channels, D slices, H rows, W columns.
"""

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radnet_lake.errors import CheckpointError, SettingError
from radnet_lake.network.checkpoint import (
    FORMAT,
    SEGMENTER,
    THE_CHECKPOINT,
    build_module,
    decode_checkpoint,
    read_file,
)
from radnet_lake.network.resnet import ENCODERS, NetworkSettings, conv3, group_norm, scale_grey

FREEZE: dict[str, int | None] = {
    "all": 4, "3": 3, "2": 2, "1": 1, "none": None, "scratch": None,
}  # fmt: skip
"""Name -> number of frozen layers of the encoder, with the stem; None: nothing is frozen (rows of
3D-RADNet's Table 2). none and scratch differ in the initial weights only."""
MAX_WIDTH = 128


class Segmenter(nn.Module):
    """A pretrained encoder and a decoder: volumes -> for each voxel the logit of the organ.

    decoder_width: channels of the decoder where the encoder's stem is joined (half size, with a
    stem of stride 2): half as many at full size, and twice as many each level down, but never more
    than the encoder's stage there has. Normalised in groups: batches of windows are small.

    Raises SettingError for a width out of range.
    """

    def __init__(self, config: NetworkSettings, decoder_width: int = 16) -> None:
        super().__init__()
        is_whole = isinstance(decoder_width, int) and not isinstance(decoder_width, bool)
        if not is_whole or not 2 <= decoder_width <= MAX_WIDTH:
            what = f"{decoder_width!r} is out of range"
            raise SettingError(what, "--decoder-width", f"give 2 to {MAX_WIDTH}")
        self.config, self.decoder_width = config, decoder_width
        self.encoder = ENCODERS[config.encoder](config)
        self.decoder = Decoder(self.encoder.channels, decoder_width)

    def forward(self, volume: Tensor) -> Tensor:
        """Logits, (B, 1, D, H, W) float32: above 0 where it is the organ.

        volume: (B, 1, D, H, W) grey levels 0..255, uint8 or float, each side 8 voxels or more.
        Raises SettingError for another shape.
        """
        x = scale_grey(volume, self.config.standardise).to(self.decoder.tell.weight.dtype)
        logits: Tensor = self.decoder([x, *self.encoder(x)])
        return logits

    def freeze(self, what: str) -> None:
        """Freeze the layers of the encoder that a key of FREEZE names, running statistics included.

        With "all" the encoder stores nothing for gradients: it costs its forward pass only. Raises
        SettingError for another name.
        """
        if what not in FREEZE:
            raise SettingError(f"{what!r} is unknown", "--freeze", f"use {', '.join(FREEZE)}")
        layers = FREEZE[what]
        if layers is not None:
            self.encoder.freeze(layers)


class Decoder(nn.Module):
    """From the encoder's stages to logits. channels: of each stage, stem to layer4."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        levels = [Level(min(width, channels[0]), 1, width // 2)]
        for n, (joined, below) in enumerate(pairwise(channels)):
            deepest = n == len(channels) - 2
            inputs = below if deepest else min(width * 2 ** (n + 1), below)
            levels.append(Level(inputs, joined, min(width * 2**n, joined)))
        self.levels = nn.ModuleList(reversed(levels))
        # The name is part of the keys in saved checkpoints.
        self.tell = nn.Conv3d(width // 2, 1, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        """stages: the scaled image, then the encoder's. Gives (B, 1, D, H, W) of the image."""
        *joined, x = stages
        for level, stage in zip(self.levels, reversed(joined), strict=True):
            x = level(x, stage)
        # Logits, and so the loss, are in full precision under autocast too.
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.tell(x.to(self.tell.weight.dtype))  # -> (B, 1, D, H, W)
            return logits


class Level(nn.Module):
    """Up-sample to a stage's size, join the stage. inputs: channels below; joined: of the stage."""

    def __init__(self, inputs: int, joined: int, outputs: int) -> None:
        super().__init__()
        # Deep encoders have many channels; 3x3x3 convolutions on them would cost the most.
        self.narrow = nn.Conv3d(inputs, outputs, 1)
        self.join = nn.Conv3d(joined, outputs, 1) if joined > 1 else nn.Identity()
        self.conv1 = conv3(outputs + (outputs if joined > 1 else 1), outputs)
        self.norm1 = group_norm(outputs)
        self.conv2 = conv3(outputs, outputs)
        self.norm2 = group_norm(outputs)

    def forward(self, x: Tensor, stage: Tensor) -> Tensor:
        """x: (B, inputs, d, h, w), stage: (B, joined, D, H, W) -> (B, outputs, D, H, W)."""
        x = self.narrow(x)
        if x.shape[2:] != stage.shape[2:]:
            # To the stage's own size: an encoder rounds odd sizes up.
            x = F.interpolate(x, size=stage.shape[2:], mode="trilinear")  # -> (B, C, D, H, W)
        y = torch.cat([x, self.join(stage)], 1)
        y = F.relu(self.norm1(self.conv1(y)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += x
        return F.relu(y, inplace=True)


def describe_segmenter(network: Segmenter, organ: str) -> dict[str, Any]:
    """A segmenter and its organ -> the part of a checkpoint that build_segmenter needs."""
    return {
        "format": FORMAT,
        "kind": SEGMENTER,
        "organ": organ,
        "network": asdict(network.config),
        "decoder_width": network.decoder_width,
        "model": network.state_dict(),
    }


def build_segmenter(state: dict[str, Any]) -> Segmenter:
    """A checkpoint -> its segmenter with its weights, in eval mode, on the CPU.

    Raises CheckpointError where the checkpoint does not hold together, or is no segmenter's.
    """
    if state.get("kind") != SEGMENTER:
        what = "these are weights of a pretrained network, which has no decoder"
        raise CheckpointError(what, THE_CHECKPOINT, "give a run of radnet-lake liver train")
    return build_module(
        lambda: Segmenter(NetworkSettings(**state["network"]), state["decoder_width"]), state
    )


def load_segmenter(uri: str) -> Segmenter:
    """A run's folder (its best checkpoint) or a checkpoint's file -> the trained segmenter.

    uri: local or s3://. Raises CheckpointError, SettingError where nothing is there, StoreError.
    """
    return build_segmenter(decode_checkpoint(*read_file(uri)))
