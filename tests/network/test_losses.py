"""Losses and metrics against their formulas, over known labels alone."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from radnet_lake.network.heads import read_heads
from radnet_lake.network.losses import FIELDS, Objective
from radnet_lake.network.resnet import Output

HEADS = read_heads()
NAN = math.nan
NOTHING = torch.empty(0)


def alone(tensor: Tensor) -> Tensor:
    return tensor


def make_logits(rows: int) -> dict[str, Tensor]:
    torch.manual_seed(rows)
    return {h.name: torch.randn(rows, len(h.classes), requires_grad=True) for h in HEADS}


LABELS = {
    "sequence": torch.tensor([0, 4, -1, 2]),
    "view": torch.tensor([-1, -1, -1, 1]),
    "contrast": torch.tensor([1, 0, 1, 0]),
    "coverage": torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0, 1], [NAN] * 9, [0.0] * 9, [1.0] * 9]),
    "spacing": torch.tensor([5.0, NAN, 1.25, NAN]),
}


def measure(objective: Objective, logits: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    losses, sums = objective(Output(logits, NOTHING), LABELS)
    loss = objective.join(losses, sums, objective.weigh(LABELS), alone)
    found = {name: value for name, value in objective.summarise(sums).items() if value is not None}
    return loss, found


def test_losses_are_means_over_known_labels() -> None:
    logits = make_logits(4)
    _, found = measure(Objective(HEADS, {}), logits)
    for head in ("sequence", "view", "contrast"):
        expected = F.cross_entropy(logits[head], LABELS[head], ignore_index=-1)
        assert found[f"loss_{head}"] == pytest.approx(expected.item(), rel=1e-5)
    known = ~LABELS["coverage"].isnan()
    pairs = logits["coverage"][known], LABELS["coverage"][known]
    expected = F.binary_cross_entropy_with_logits(*pairs)
    assert found["loss_coverage"] == pytest.approx(expected.item(), rel=1e-5)
    errors = logits["spacing"][[0, 2], 0] - torch.tensor([0.5, 0.125])  # cm
    assert found["loss_spacing"] == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-5)
    heads = [found[f"loss_{head.name}"] for head in HEADS]
    assert found["loss"] == pytest.approx(sum(heads))


def test_gradient_is_that_of_the_summed_losses() -> None:
    logits = make_logits(4)
    loss, _ = measure(Objective(HEADS, {}), logits)
    torch.autograd.backward(loss)
    found = {name: logit.grad for name, logit in logits.items()}
    logits = make_logits(4)
    known = ~LABELS["coverage"].isnan()
    coverage = logits["coverage"][known], LABELS["coverage"][known]
    errors = logits["spacing"][[0, 2], 0] - torch.tensor([0.5, 0.125])
    parts = [
        F.cross_entropy(logits[head], LABELS[head], ignore_index=-1)
        for head in ("sequence", "view", "contrast")
    ]
    parts += [F.binary_cross_entropy_with_logits(*coverage), errors.square().mean().sqrt()]
    torch.autograd.backward(torch.stack(parts).sum())
    for name, logit in logits.items():
        torch.testing.assert_close(found[name], logit.grad, rtol=1e-4, atol=1e-7)


def test_weights_of_classes_are_torchs() -> None:
    weights = {"sequence": [0.5, 1.0, 2.0, 3.0, 0.25], "coverage": [2.0] * 9}
    logits = make_logits(4)
    _, found = measure(Objective(HEADS, weights), logits)
    weight = torch.tensor(weights["sequence"])
    sequence = logits["sequence"], LABELS["sequence"]
    expected = F.cross_entropy(*sequence, weight=weight, ignore_index=-1)
    assert found["loss_sequence"] == pytest.approx(expected.item(), rel=1e-5)
    known = ~LABELS["coverage"].isnan()
    pairs = logits["coverage"][known], LABELS["coverage"][known]
    expected = F.binary_cross_entropy_with_logits(*pairs, pos_weight=torch.tensor(2.0))
    assert found["loss_coverage"] == pytest.approx(expected.item(), rel=1e-5)


def test_metrics_count_known_labels_only() -> None:
    logits = {
        "sequence": F.one_hot(torch.tensor([0, 4, 1, 3]), 5) * 9.0,
        "view": F.one_hot(torch.tensor([0, 0, 0, 1]), 3) * 9.0,
        "contrast": F.one_hot(torch.tensor([1, 0, 0, 1]), 2) * 9.0,
        "coverage": torch.where(LABELS["coverage"].nan_to_num() > 0, 9.0, -9.0),
        "spacing": torch.tensor([[0.7], [9.0], [0.025], [9.0]]),
    }
    logits["coverage"][3, :3] = -9.0
    _, found = measure(Objective(HEADS, {}), logits)
    assert found["accuracy_sequence"] == pytest.approx(2 / 3)
    assert found["accuracy_view"] == 1
    assert found["accuracy_contrast"] == 0.5
    assert found["accuracy_coverage"] == pytest.approx(24 / 27)
    assert found["coverage_exact"] == pytest.approx(2 / 3)
    assert found["spacing_mae_mm"] == pytest.approx(1.5, rel=1e-5)
    assert found["spacing_rmse_mm"] == pytest.approx(math.sqrt((4 + 1) / 2), rel=1e-5)


def test_nothing_known_is_no_loss_and_no_metric() -> None:
    unknown = {name: torch.full_like(label, -1) for name, label in LABELS.items()}
    unknown |= {name: torch.full_like(LABELS[name], NAN) for name in ("coverage", "spacing")}
    objective, logits = Objective(HEADS, {}), make_logits(4)
    losses, sums = objective(Output(logits, NOTHING), unknown)
    loss = objective.join(losses, sums, objective.weigh(unknown), alone)
    torch.autograd.backward(loss)
    assert loss.item() == 0
    for logit in logits.values():
        assert logit.grad is not None
        assert not logit.grad.any()
    found = objective.summarise(sums)
    assert {value for name, value in found.items() if name != "loss"} == {None}


def test_sums_of_parts_are_those_of_the_whole() -> None:
    objective, logits = Objective(HEADS, {}), make_logits(4)
    whole = objective(Output(logits, NOTHING), LABELS)[1]
    parts = torch.zeros(len(HEADS), len(FIELDS), dtype=torch.float64)
    for some in (slice(0, 1), slice(1, 4)):
        cut = {name: label[some] for name, label in LABELS.items()}
        parts += objective(
            Output({name: logit[some] for name, logit in logits.items()}, NOTHING), cut
        )[1]
    torch.testing.assert_close(parts, whole)
