"""Losses and metrics of each head: logits and labels in, the loss to minimise and sums out.

Cross entropy for sequence, view and contrast, binary cross entropy for each coverage label, the
root of the mean squared error for spacing in cm (3D-RADNet 2.2); their sum is the loss. Labels that
are unknown (-1, NaN) have no part in it: each loss is a mean over the known labels of the whole
batch, over all workers, so that the gradient does not depend on how the batch is shared out.

Shapes: B rows of a batch, N classes of a head.

Not monai.losses or torchmetrics, because sums and means must be exact over all workers.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radnet_lake.network.heads import Head
from radnet_lake.network.resnet import Output

FIELDS = ("loss", "weight", "n_correct", "n_labelled", "n_all_correct", "n_complete")
"""Sums of each head over rows, batches and workers. loss: losses, of spacing squared errors in cm2;
weight: their divisor; n_correct: correct labels, of spacing the absolute error in cm instead;
n_labelled: known labels; n_all_correct: rows with every label correct, among the n_complete rows
that have every label.
"""
UNKNOWN = -1
MM_PER_CM = 10.0
MIN_SQUARE = 1e-8
"""cm2, added under the root, because its slope at zero is infinite."""

Labels = Mapping[str, Tensor]
"""sequence, view, contrast: (B,) int64; coverage (B, N), spacing (B,) in mm: float32."""
Weights = Mapping[str, Sequence[float]]
"""Head -> weight of each class; of coverage, weight of the positive label."""
AddUp = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers."""


class Objective(nn.Module):
    """Losses and metrics of all heads. weights: of the classes; {}: all 1."""

    def __init__(self, heads: Sequence[Head], weights: Weights) -> None:
        super().__init__()
        self.labels = tuple(heads)
        for head in heads:
            values = weights.get(head.name, [1.0] * len(head.classes))
            self.register_buffer(f"weight_{head.name}", torch.tensor(values, dtype=torch.float32))

    def weigh(self, labels: Labels) -> Tensor:
        """Labels of some rows -> (heads,) divisor of their losses: weights of the known labels."""
        weights = []
        for head in self.labels:
            label = labels[head.name]
            known = label != UNKNOWN if head.kind == "single" else ~label.isnan()
            if head.kind == "single":
                weights.append(self._weight(head)[label[known]].sum())
            else:
                weights.append(known.sum())
        return torch.stack([weight.double() for weight in weights])

    def forward(self, output: Output, labels: Labels) -> tuple[Tensor, Tensor]:
        """Output and labels -> (heads,) losses, with gradient; (heads, FIELDS) sums, without."""
        losses, sums = [], []
        for head in self.labels:
            measure = _MEASURES[head.kind]
            logit, label = output.logits[head.name].float(), labels[head.name]
            fields = measure(logit, label, self._weight(head))
            losses.append(fields[0])
            sums.append(torch.stack([value.detach().double() for value in fields]))
        return torch.stack(losses), torch.stack(sums)

    def join(self, losses: Tensor, sums: Tensor, weights: Tensor, add_up: AddUp) -> Tensor:
        """Losses of one worker -> the scalar it differentiates: gradients sum to that of the loss.

        losses, sums: of forward; weights: (heads,) of the whole batch over all workers. With
        gradient accumulation, spacing has the root mean square of each piece of a batch, because
        that of the batch is known only after its last piece.
        """
        weights = weights.clamp(min=1e-12).float()
        terms = losses / weights
        scalars = [n for n, head in enumerate(self.labels) if head.kind == "scalar"]
        if scalars:
            # d sqrt(S / n) = dS / (2 n sqrt(S / n)), where S and n are those of all workers.
            square, known = add_up(sums[scalars][:, :2].clone()).unbind(1)
            root = (square / known.clamp(min=1) + MIN_SQUARE).sqrt().float()
            factor = torch.ones_like(terms)
            factor[scalars] = 1 / (2 * root)
            terms = terms * factor
        return terms.sum()

    def empty(self) -> Tensor:
        """(heads, FIELDS) zeros: the sums over no rows."""
        return torch.zeros((len(self.labels), len(FIELDS)), dtype=torch.float64)

    def summarise(self, sums: Tensor) -> dict[str, float | None]:
        """(heads, FIELDS) sums -> losses and metrics, as columns of run_folder.METRICS.

        None if no label is known. loss: the sum of the losses of the heads.
        """
        found: dict[str, float | None] = {}
        for head, row in zip(self.labels, sums.tolist(), strict=True):
            field = dict(zip(FIELDS, row, strict=True))
            loss = field["loss"] / field["weight"] if field["weight"] else None
            mean = field["n_correct"] / field["n_labelled"] if field["n_labelled"] else None
            if head.kind == "scalar":
                loss = None if loss is None else math.sqrt(loss) if loss >= 0 else math.nan
                found["spacing_mae_mm"] = None if mean is None else MM_PER_CM * mean
                found["spacing_rmse_mm"] = None if loss is None else MM_PER_CM * loss
            else:
                found[f"accuracy_{head.name}"] = mean
            if head.kind == "multi":
                complete = field["n_complete"]
                found["coverage_exact"] = field["n_all_correct"] / complete if complete else None
            found[f"loss_{head.name}"] = loss
        losses = (found[f"loss_{head.name}"] for head in self.labels)
        known = [loss for loss in losses if loss is not None]
        return {"loss": sum(known) if known else None} | found

    def _weight(self, head: Head) -> Tensor:
        weight: Tensor = getattr(self, f"weight_{head.name}")
        return weight


def _measure_single(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    known = label != UNKNOWN
    # All rows stay in the graph, because DDP wants a gradient for every parameter.
    row_weight = weight[label.clamp(min=0)] * known
    row_loss = F.cross_entropy(logit, label.clamp(min=0), reduction="none")
    correct = ((logit.argmax(1) == label) & known).sum()
    n_known = known.sum()
    return (row_loss * row_weight).sum(), row_weight.sum(), correct, n_known, correct, n_known


def _measure_multi(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    known = ~label.isnan()  # (B, N)
    target = label.nan_to_num()
    loss = F.binary_cross_entropy_with_logits(logit, target, pos_weight=weight, reduction="none")
    correct = ((logit > 0) == (target > 0.5)) & known
    is_complete = known.all(1)
    all_correct = (correct.all(1) & is_complete).sum()
    n_known = known.sum()
    return (loss * known).sum(), n_known, correct.sum(), n_known, all_correct, is_complete.sum()


def _measure_scalar(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    known = ~label.isnan()
    error = (logit[:, 0] - label.nan_to_num() / MM_PER_CM) * known  # cm
    n_known = known.sum()
    zero = torch.zeros_like(n_known)
    return error.square().sum(), n_known, error.abs().sum(), n_known, zero, zero


_MEASURES = {"single": _measure_single, "multi": _measure_multi, "scalar": _measure_scalar}
