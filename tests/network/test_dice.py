"""Dice and IoU agree with an independent implementation; the Dice loss is sane, and shared out."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torchmetrics.functional import jaccard_index
from torchmetrics.functional.segmentation import dice_score

from radnet_lake.network.dice import DiceObjective, measure_overlap

SHAPE = (6, 10, 12)
Mask = npt.NDArray[np.bool_]


def draw_mask(seed: int, share: float) -> Mask:
    return np.random.default_rng(seed).random(SHAPE) < share


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("other", ["another", "half of it", "itself", "all", "empty"])
def test_overlap_is_that_of_torchmetrics(share: float, other: str) -> None:
    truth = draw_mask(0, share)
    found = {
        "another": draw_mask(1, 0.2),
        "half of it": truth & draw_mask(1, 0.5),
        "itself": truth,
        "all": np.ones(SHAPE, bool),
        "empty": np.zeros(SHAPE, bool),
    }[other]
    tensors = [torch.from_numpy(mask)[None, None].long() for mask in (found, truth)]
    for pair, masks in ((tensors, (found, truth)), (tensors[::-1], (truth, found))):
        overlap = measure_overlap(*masks)
        dice = dice_score(*pair, num_classes=1, input_format="one-hot", average="macro")
        assert overlap.dice == pytest.approx(float(dice), abs=1e-6)
        assert overlap.iou == pytest.approx(float(jaccard_index(*pair, "binary")), abs=1e-6)


def test_empty_masks() -> None:
    empty, some = np.zeros(SHAPE, bool), draw_mask(0, 0.1)
    assert measure_overlap(empty, empty) == (1.0, 1.0)
    assert measure_overlap(some, empty) == measure_overlap(empty, some) == (0.0, 0.0)
    # As uint8, which masks are stored as.
    stored = some.astype(np.uint8)
    assert measure_overlap(stored, stored) == (1.0, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(6, 10, 12\)"):
        measure_overlap(some, some[1:])


def make_batch(*shares: float) -> tuple[Tensor, dict[str, Tensor]]:
    logits = torch.from_numpy(np.random.default_rng(9).normal(size=(len(shares), 1, *SHAPE)))
    masks = np.stack([draw_mask(n, share) for n, share in enumerate(shares)])
    return logits.requires_grad_(), {"mask": torch.from_numpy(masks.astype(np.uint8))}


def test_sums_are_those_of_each_windows_overlap() -> None:
    objective = DiceObjective()
    logits, labels = make_batch(0.3, 0.01, 0.0)
    _, sums = objective(logits, labels)
    found = (logits.detach() > 0).numpy()[:, 0]
    each = [measure_overlap(a, b > 0) for a, b in zip(found, labels["mask"].numpy(), strict=True)]
    summary = objective.summarise(objective.empty() + sums)
    assert summary["dice"] == pytest.approx(np.mean([one.dice for one in each]))
    assert summary["iou"] == pytest.approx(np.mean([one.iou for one in each]))
    assert objective.summarise(objective.empty()) == {"loss": None, "dice": None, "iou": None}


def test_loss_ends_at_0_for_the_mask_and_1_for_its_opposite() -> None:
    objective = DiceObjective()
    for share in (0.2, 0.0):
        _, labels = make_batch(share)
        sign = 2.0 * labels["mask"][:, None].float() - 1
        assert objective(100 * sign, labels)[0].item() == pytest.approx(0, abs=1e-6)
        assert objective(-100 * sign, labels)[0].item() == pytest.approx(1, abs=0.01)


def test_every_window_has_a_finite_slope_that_leads_down() -> None:
    objective = DiceObjective()
    for share in (0.2, 0.0):
        for scale in (1.0, 60.0):
            logits, labels = make_batch(share)
            losses, _ = objective(scale * logits, labels)
            (slope,) = torch.autograd.grad(losses.sum(), logits)
            assert slope.isfinite().all()
    logits, labels = make_batch(0.0)
    for _ in range(200):
        losses, _ = objective(logits, labels)
        (slope,) = torch.autograd.grad(losses.sum(), logits)
        logits = (logits - 2000 * slope).detach().requires_grad_()
    assert losses.item() < 0.5, "an empty mask is learnt: there is nothing"


def test_gradient_does_not_depend_on_how_the_batch_is_shared_out() -> None:
    objective = DiceObjective()
    logits, labels = make_batch(0.3, 0.01, 0.0)
    losses, sums = objective(logits, labels)
    weights = objective.weigh(labels)
    whole = objective.join(losses, sums, weights, lambda x: x)
    assert whole.item() == pytest.approx(objective.summarise(sums)["loss"])
    (wanted,) = torch.autograd.grad(whole, logits)
    parts = []
    for rows in (slice(0, 1), slice(1, 3)):
        losses, sums = objective(logits[rows], {"mask": labels["mask"][rows]})
        joined = objective.join(losses, sums, weights, lambda x: x)
        parts.append(torch.autograd.grad(joined, logits)[0])
    assert torch.allclose(sum(parts), wanted)
