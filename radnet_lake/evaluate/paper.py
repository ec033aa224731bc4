"""The numbers of the paper's Tables 1, 2 and 3, as printed.

What to know when reading Table 1, 3D-RADNet on its testing set of 316 series:
- Every printed accuracy, recall and precision follows from whole counts of 316 series, with the
  accuracy of a class as one against all others: T2-FLAIR has 97.5 % with 8 of its 20 series missed.
- Table 1 counts 100 series with contrast and 216 without, Table A3 the other way round. Recall,
  precision and accuracy of Table 1 fit together only as Table 1 counts.
- Contrast has no total row; its accuracy stands with both classes, and is one number.
- The text (section 3.1) gives spacing, without saying how many series.

What to know when reading Tables 2 and 3, liver segmentation of LiTS, 20 test cases:
- One training of each row; no spread over seeds and no interval over cases is printed.
- The row "froze all layers" of Table 2 and the row "100 %" of Table 3 are the same network (section
  3.2), yet three of their four numbers differ: IoU 80.7 and 81.6, medians 90.0/81.8 and 90.1/82.0.
- Of one case IoU is Dice / (2 - Dice), which is convex: a mean IoU cannot be below that of the mean
  Dice. Both rows are: a mean Dice of 90.0 means a mean IoU of at least 81.8. The other rows hold.
- Neither order is monotone: freezing to block 2 (84.3) beats freezing to block 3 (72.1), 40 % of
  the cases (87.0) beat 60 % and 80 % of them.
"""

from typing import NamedTuple


class ClassScores(NamedTuple):
    """A row of Table 1. samples: series; the others: percent, None where nothing is printed."""

    samples: int
    accuracy: float
    auc: float | None = None
    recall: float | None = None
    precision: float | None = None


TABLE1: dict[tuple[str, str], ClassScores] = {
    ("sequence", "CT"): ClassScores(117, 100, 100, 100, 100),
    ("sequence", "T1-SE"): ClassScores(51, 97.8, 98.1, 92.2, 94.0),
    ("sequence", "T2-SE"): ClassScores(101, 96.8, 98.8, 99.0, 91.7),
    ("sequence", "T1-FLAIR"): ClassScores(27, 99.7, 100, 100, 96.4),
    ("sequence", "T2-FLAIR"): ClassScores(20, 97.5, 96.5, 60, 100),
    ("sequence", "total"): ClassScores(316, 95.9),
    ("view", "axial"): ClassScores(267, 99.4, 100, 99.3, 100),
    ("view", "coronal"): ClassScores(32, 100, 100, 100, 100),
    ("view", "sagittal"): ClassScores(17, 99.4, 100, 100, 89.5),
    ("view", "total"): ClassScores(316, 99.4),
    ("contrast", "Contrast"): ClassScores(100, 84.8, 91.7, 86.0, 71.7),
    ("contrast", "No Contrast"): ClassScores(216, 84.8, 91.7, 84.3, 92.9),
    ("contrast", "total"): ClassScores(316, 84.8),
    ("coverage", "brain"): ClassScores(200, 98.4, 99.9, 97.5, 100),
    ("coverage", "upper_head_neck"): ClassScores(42, 98.7, 99.7, 90.5, 100),
    ("coverage", "lower_head_neck"): ClassScores(38, 98.7, 98.7, 89.5, 100),
    ("coverage", "lung"): ClassScores(64, 98.4, 98.8, 93.8, 98.4),
    ("coverage", "breast"): ClassScores(82, 98.7, 99.6, 96.3, 98.8),
    ("coverage", "liver"): ClassScores(52, 99.1, 99.7, 98.1, 96.2),
    ("coverage", "kidney"): ClassScores(52, 98.7, 99.8, 100, 92.9),
    ("coverage", "intestine"): ClassScores(46, 98.1, 100, 89.1, 97.6),
    ("coverage", "pelvis"): ClassScores(55, 98.1, 99.9, 96.4, 93.0),
    ("coverage", "total"): ClassScores(316, 91.5),
}
"""By head and class of sql/classes.csv; coverage's total: series with all nine labels right."""

SPACING_MM = {"mae_mm": 3.1, "rmse_mm": 4.2}
"""Slice spacing after resizing, mm: mean absolute and root-mean-square error."""


class SegmentationScores(NamedTuple):
    """A row of Table 2 or 3, percent. cases: of the training set."""

    title: str
    cases: int
    mean_dice: float
    mean_iou: float
    median_dice: float
    median_iou: float


TABLE2: dict[str, SegmentationScores] = {
    "all": SegmentationScores("Froze all layers", 92, 90.0, 80.7, 90.0, 81.8),
    "3": SegmentationScores("Froze to block 3", 92, 72.1, 59.7, 81.0, 68.1),
    "2": SegmentationScores("Froze to block 2", 92, 84.3, 76.8, 90.3, 82.3),
    "1": SegmentationScores("Froze to block 1", 92, 77.6, 65.1, 81.8, 69.3),
    "none": SegmentationScores("Weights only", 92, 44.8, 38.1, 43.0, 27.4),
    "scratch": SegmentationScores("No transfer learning", 92, 41.8, 38.0, 43.0, 27.3),
}
"""By what is frozen, as `radnet-lake liver train --freeze`."""

TABLE3: dict[float, SegmentationScores] = {
    1.0: SegmentationScores("100%", 92, 90.0, 81.6, 90.1, 82.0),
    0.8: SegmentationScores("80%", 74, 84.7, 75.0, 89.0, 80.0),
    0.6: SegmentationScores("60%", 55, 84.2, 73.9, 87.2, 77.3),
    0.4: SegmentationScores("40%", 37, 87.0, 77.9, 90.9, 83.4),
    0.2: SegmentationScores("20%", 18, 80.0, 69.3, 86.5, 76.1),
}
"""By share of the training cases, all layers frozen."""

SPLIT = {"train": 92, "validation": 19, "test": 20}
"""LiTS cases of each split, section 3.2."""

MED3D_DICE = 94.6
"""Percent: liver, MED3D (Chen et al. 2019) as the paper's section 4 cites it; other test cases."""
