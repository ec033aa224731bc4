"""The numbers of the paper's Table 1, as printed: 3D-RADNet on its testing set of 316 series.

What to know when reading them:
- Every printed accuracy, recall and precision follows from whole counts of 316 series, with the
  accuracy of a class as one against all others: T2-FLAIR has 97.5 % with 8 of its 20 series missed.
- Table 1 counts 100 series with contrast and 216 without, Table A3 the other way round. Recall,
  precision and accuracy of Table 1 fit together only as Table 1 counts.
- Contrast has no total row; its accuracy stands with both classes, and is one number.
- The text (section 3.1) gives spacing, without saying how many series.
"""

from typing import NamedTuple


class Printed(NamedTuple):
    """A row of Table 1. samples: series; the others: percent, None where nothing is printed."""

    samples: int
    accuracy: float
    auc: float | None = None
    recall: float | None = None
    precision: float | None = None


ROWS: dict[tuple[str, str], Printed] = {
    ("sequence", "CT"): Printed(117, 100, 100, 100, 100),
    ("sequence", "T1-SE"): Printed(51, 97.8, 98.1, 92.2, 94.0),
    ("sequence", "T2-SE"): Printed(101, 96.8, 98.8, 99.0, 91.7),
    ("sequence", "T1-FLAIR"): Printed(27, 99.7, 100, 100, 96.4),
    ("sequence", "T2-FLAIR"): Printed(20, 97.5, 96.5, 60, 100),
    ("sequence", "total"): Printed(316, 95.9),
    ("view", "axial"): Printed(267, 99.4, 100, 99.3, 100),
    ("view", "coronal"): Printed(32, 100, 100, 100, 100),
    ("view", "sagittal"): Printed(17, 99.4, 100, 100, 89.5),
    ("view", "total"): Printed(316, 99.4),
    ("contrast", "Contrast"): Printed(100, 84.8, 91.7, 86.0, 71.7),
    ("contrast", "No Contrast"): Printed(216, 84.8, 91.7, 84.3, 92.9),
    ("contrast", "total"): Printed(316, 84.8),
    ("coverage", "brain"): Printed(200, 98.4, 99.9, 97.5, 100),
    ("coverage", "upper_head_neck"): Printed(42, 98.7, 99.7, 90.5, 100),
    ("coverage", "lower_head_neck"): Printed(38, 98.7, 98.7, 89.5, 100),
    ("coverage", "lung"): Printed(64, 98.4, 98.8, 93.8, 98.4),
    ("coverage", "breast"): Printed(82, 98.7, 99.6, 96.3, 98.8),
    ("coverage", "liver"): Printed(52, 99.1, 99.7, 98.1, 96.2),
    ("coverage", "kidney"): Printed(52, 98.7, 99.8, 100, 92.9),
    ("coverage", "intestine"): Printed(46, 98.1, 100, 89.1, 97.6),
    ("coverage", "pelvis"): Printed(55, 98.1, 99.9, 96.4, 93.0),
    ("coverage", "total"): Printed(316, 91.5),
}
"""By head and class of sql/classes.csv; coverage's total: series with all nine labels right."""

SPACING_MM = {"mae_mm": 3.1, "rmse_mm": 4.2}
"""Slice spacing after resizing, mm: mean absolute and root-mean-square error."""
