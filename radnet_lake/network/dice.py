"""Dice and IoU of two masks, and the Dice loss: logits and masks in, the loss and sums out.

Shapes: B windows of a batch, D slices, H rows, W columns.

Not monai.losses or torchmetrics, because sums must be exact over all workers; torchmetrics is the
oracle of the tests.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

FIELDS = ("loss", "dice", "iou", "rows")
"""Sums over windows, batches and workers: the loss, and the overlap at a probability above 0.5."""
SMOOTH = 1.0
"""Voxels added to both parts of the loss's quotient, so that an empty mask has a loss, and a slope
that falls with the voxels found there."""


class Overlap(NamedTuple):
    """Dice 2 |A and B| / (|A| + |B|), IoU |A and B| / |A or B|: 1 where both masks are empty."""

    dice: float
    iou: float


def measure_overlap(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> Overlap:
    """Two masks of one shape -> their overlap; 0 if exactly one of them is empty.

    Raises ValueError for two shapes.
    """
    if found.shape != truth.shape:
        raise ValueError(f"masks of {found.shape} and {truth.shape}")
    found, truth = found.astype(bool, copy=False), truth.astype(bool, copy=False)
    both, either = int(np.count_nonzero(found & truth)), int(np.count_nonzero(found | truth))
    return Overlap(2 * both / (both + either), both / either) if either else Overlap(1.0, 1.0)


class DiceObjective(nn.Module):
    """The Dice loss with V-Net's squared denominator (Milletari et al. 2016; 3D-RADNet 2.3).

    Of each window 1 - 2 sum(p t) / (sum(p^2) + sum(t^2)), p its probabilities, t its mask; the mean
    over all windows of the whole batch, over all workers. The same methods as losses.Objective,
    of one head; labels: {"mask": (B, D, H, W), 0 or 1}.
    """

    def weigh(self, labels: Mapping[str, Tensor]) -> Tensor:
        """Labels of some rows -> (1,) divisor of their losses: the number of rows."""
        mask = labels["mask"]
        return torch.full((1,), len(mask), dtype=torch.float64, device=mask.device)

    def forward(self, output: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Output and masks -> (1,) summed losses, with gradient; (1, FIELDS) sums, without.

        output: logits, (B, 1, D, H, W).
        """
        logits = output.float().flatten(1)  # (B, 1, D, H, W) -> (B, D H W)
        truth = labels["mask"].flatten(1) > 0  # (B, D, H, W) -> (B, D H W)
        found = logits.sigmoid()
        both = (found * truth).sum(1)
        losses = 1 - (2 * both + SMOOTH) / (found.square().sum(1) + truth.sum(1) + SMOOTH)
        with torch.no_grad():
            is_found = logits > 0
            shared = (is_found & truth).sum(1).double()
            either = (is_found | truth).sum(1).double()
            dice = torch.where(either > 0, 2 * shared / (shared + either).clamp(min=1), 1.0)
            iou = torch.where(either > 0, shared / either.clamp(min=1), 1.0)
            fields = (losses.double(), dice, iou, torch.ones_like(dice))
            sums = torch.stack([field.sum() for field in fields])
        return losses.sum()[None], sums[None]

    def join(
        self, losses: Tensor, sums: Tensor, weights: Tensor, add_up: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Losses of one worker -> the scalar it differentiates: gradients sum to that of the loss.

        weights: (1,) of the whole batch over all workers; sums and add_up are not needed here.
        """
        return (losses / weights.clamp(min=1).float()).sum()

    def empty(self) -> Tensor:
        """(1, FIELDS) zeros: the sums over no windows."""
        return torch.zeros(1, len(FIELDS), dtype=torch.float64)

    def summarise(self, sums: Tensor) -> dict[str, float | None]:
        """(1, FIELDS) sums -> means over the windows: loss, dice, iou; None without windows."""
        *totals, rows = sums[0].tolist()
        return {
            name: total / rows if rows else None
            for name, total in zip(FIELDS[:-1], totals, strict=True)
        }
