"""Augmentation: a batch of volumes in, random changes of it out that keep every label valid.

Labels stay valid because grey levels, noise and image contrast do not determine sequence, view or
coverage: min-max scaling sets them for every scanner anew, contrast agent brightens vessels, not
the image, and the changes are small and monotonic. In plane, a few degrees, per cent and voxels
move no organ out of the image. Nothing changes along D, because the labels of spacing and coverage
describe the slices. Nothing is mirrored, because `view` and the organs' places depend on left and
right, front and back (docs/volumes.md).

Shapes: B volumes, C channels, D slices, H rows, W columns.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

GAMMA = 0.3
"""Grey levels to the power of exp(u), u within this of 0."""
GAIN, OFFSET = 0.15, 0.08
"""Contrast and brightness: shares of the range of grey levels, either way."""
NOISE = 0.03
"""Largest standard deviation of the noise, as share of the range."""
ANGLE_DEG, SCALE, SHIFT = 7.0, 0.07, 0.04
"""In plane, either way: degrees; share of the size; share of the width and height."""


def augment(volumes: Tensor, seed: int) -> Tensor:
    """Volumes (B, 1, D, H, W) uint8 -> changed copies in float32, still 0 to 255.

    Equal seeds make equal changes on equal devices. Voxels from outside the image are 0, as blank
    slices are; blank slices get no noise.
    """
    generator = torch.Generator(volumes.device).manual_seed(seed)
    grey = volumes.float() / 255
    size = (len(volumes), 6)
    draw = torch.rand(size, generator=generator, device=volumes.device) * 2 - 1  # (B, 6)
    angle, scale, right, down, gamma, gain = draw.unbind(1)
    grey = _move(grey, angle * math.radians(ANGLE_DEG), 1 + SCALE * scale, right, down)
    is_image = grey > 0
    draw = torch.rand((len(volumes), 2), generator=generator, device=volumes.device)
    offset, noise = (draw * torch.tensor([2.0, NOISE], device=volumes.device)).unbind(1)
    gain = 1 + GAIN * gain
    grey.pow_(_each(torch.exp(GAMMA * gamma)))
    grey.mul_(_each(gain)).add_(_each((1 - gain) / 2 + OFFSET * (offset - 1)))
    random = torch.randn(grey.shape, generator=generator, device=grey.device)
    grey.addcmul_(random, _each(noise))
    return grey.mul_(is_image).clamp_(0, 1).mul_(255)


def _move(grey: Tensor, angle: Tensor, scale: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Rotate, scale and shift in plane, equally in all slices of a volume."""
    n, _, slices, rows, columns = grey.shape
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    aspect = rows / columns
    first = torch.stack([cos, -sin * aspect, 2 * SHIFT * right], 1)
    second = torch.stack([sin / aspect, cos, 2 * SHIFT * down], 1)
    theta = torch.stack([first, second], 1)  # (B, 2, 3)
    grid = F.affine_grid(theta, [n, slices, rows, columns], align_corners=False)  # (B, H, W, 2)
    # (B, 1, D, H, W) -> (B, D, H, W): slices stand for channels, which all move alike
    return F.grid_sample(grey[:, 0], grid, align_corners=False)[:, None]


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1, 1)
