"""What the network is trained to minimise, and how good it is: losses and metrics of each head.

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

FIELDS = ("loss", "weight", "right", "known", "whole", "rows")
"""What is summed for each head, to be joined over rows, batches and workers. loss: losses, of
spacing squared errors in cm2; weight: what they are divided by; right: labels that are right, of
spacing the absolute error in cm; known: labels that are known; whole: of the `rows` whose labels
are all known, those with all labels right.
"""
UNKNOWN = -1
MM_PER_CM = 10.0
LEAST_SQUARE = 1e-8
"""cm2, added under the root, whose slope at zero is infinite."""

Labels = Mapping[str, Tensor]
"""sequence, view, contrast: (B,) int64; coverage (B, N), spacing (B,) in mm: float32."""
Weights = Mapping[str, Sequence[float]]
"""Head -> weight of each class; of coverage, weight of the series that have the label."""
AddUp = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers."""


class Objective(nn.Module):
    """Losses and metrics of all heads. weights: {} where all classes count the same."""

    def __init__(self, heads: Sequence[Head], weights: Weights) -> None:
        super().__init__()
        self.labels = tuple(heads)
        for head in heads:
            values = weights.get(head.name, [1.0] * len(head.classes))
            self.register_buffer(f"weight_{head.name}", torch.tensor(values, dtype=torch.float32))

    def weigh(self, labels: Labels) -> Tensor:
        """(heads,) What the losses of these rows are divided by: known labels, by their weights."""
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
        """(heads,) sums of the rows' losses, with gradient; (heads, FIELDS) float64 without."""
        losses, sums = [], []
        for head in self.labels:
            measure = _MEASURES[head.kind]
            logit, label = output.logits[head.name].float(), labels[head.name]
            fields = measure(logit, label, self._weight(head))
            losses.append(fields[0])
            sums.append(torch.stack([value.detach().double() for value in fields]))
        return torch.stack(losses), torch.stack(sums)

    def join(self, losses: Tensor, sums: Tensor, weights: Tensor, add_up: AddUp) -> Tensor:
        """What a worker has to differentiate: over all workers, gradients sum to the loss's.

        losses, sums: as forward gives them; weights: (heads,) of the whole batch over all workers.
        Of a batch that comes in several pieces (gradient accumulation), spacing has the root mean
        square of each piece, not of the batch: the root of the whole cannot be known in time.
        """
        weights = weights.clamp(min=1e-12).float()
        terms = losses / weights
        scalars = [n for n, head in enumerate(self.labels) if head.kind == "scalar"]
        if scalars:
            # d sqrt(S / n) = dS / (2 n sqrt(S / n)), where S and n are those of all workers.
            square, known = add_up(sums[scalars][:, :2].clone()).unbind(1)
            root = (square / known.clamp(min=1) + LEAST_SQUARE).sqrt().float()
            factor = torch.ones_like(terms)
            factor[scalars] = 1 / (2 * root)
            terms = terms * factor
        return terms.sum()

    def empty(self) -> Tensor:
        """The (heads, FIELDS) sums of no row."""
        return torch.zeros((len(self.labels), len(FIELDS)), dtype=torch.float64)

    def summarise(self, sums: Tensor) -> dict[str, float | None]:
        """Losses and metrics, as columns of run_folder.METRICS, of joined (heads, FIELDS) sums.

        None where no label was known. loss: the sum of the others.
        """
        found: dict[str, float | None] = {}
        for head, row in zip(self.labels, sums.tolist(), strict=True):
            field = dict(zip(FIELDS, row, strict=True))
            loss = field["loss"] / field["weight"] if field["weight"] else None
            right = field["right"] / field["known"] if field["known"] else None
            if head.kind == "scalar":
                loss = None if loss is None else math.sqrt(loss) if loss >= 0 else math.nan
                found["spacing_mae_mm"] = None if right is None else MM_PER_CM * right
                found["spacing_rmse_mm"] = None if loss is None else MM_PER_CM * loss
            else:
                found[f"accuracy_{head.name}"] = right
            if head.kind == "multi":
                found["coverage_exact"] = field["whole"] / field["rows"] if field["rows"] else None
            found[f"loss_{head.name}"] = loss
        told = [found[f"loss_{head.name}"] for head in self.labels]
        known = [loss for loss in told if loss is not None]
        return {"loss": sum(known) if known else None} | found

    def _weight(self, head: Head) -> Tensor:
        weight: Tensor = getattr(self, f"weight_{head.name}")
        return weight


def _measure_single(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    known = label != UNKNOWN
    # All rows stay in the graph, so that DDP finds every parameter whatever is known.
    row_weight = weight[label.clamp(min=0)] * known
    row_loss = F.cross_entropy(logit, label.clamp(min=0), reduction="none")
    right = ((logit.argmax(1) == label) & known).sum()
    n_known = known.sum()
    return (row_loss * row_weight).sum(), row_weight.sum(), right, n_known, right, n_known


def _measure_multi(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    known = ~label.isnan()  # (B, N)
    target = label.nan_to_num()
    loss = F.binary_cross_entropy_with_logits(logit, target, pos_weight=weight, reduction="none")
    right = ((logit > 0) == (target > 0.5)) & known
    is_whole = known.all(1)
    whole = (right.all(1) & is_whole).sum()
    n_known = known.sum()
    return (loss * known).sum(), n_known, right.sum(), n_known, whole, is_whole.sum()


def _measure_scalar(logit: Tensor, label: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    known = ~label.isnan()
    error = (logit[:, 0] - label.nan_to_num() / MM_PER_CM) * known  # cm
    n_known = known.sum()
    zero = torch.zeros_like(n_known)
    return error.square().sum(), n_known, error.abs().sum(), n_known, zero, zero


_MEASURES = {"single": _measure_single, "multi": _measure_multi, "scalar": _measure_scalar}
