"""The numbers of the paper's Tables 2 and 3, as printed: liver segmentation of LiTS, 20 test cases.

What to know when reading them:
- One training of each row; no spread over seeds and no interval over cases is printed.
- The row "froze all layers" of Table 2 and the row "100 %" of Table 3 are the same network (section
  3.2), yet three of their four numbers differ: IoU 80.7 and 81.6, medians 90.0/81.8 and 90.1/82.0.
- Of one case IoU is Dice / (2 - Dice), which is convex: a mean IoU cannot be below that of the mean
  Dice. Both rows are: a mean Dice of 90.0 means a mean IoU of at least 81.8. The other rows hold.
- Neither order is monotone: freezing to block 2 (84.3) beats freezing to block 3 (72.1), 40 % of
  the cases (87.0) beat 60 % and 80 % of them.
"""

from typing import NamedTuple


class Printed(NamedTuple):
    """A row of Table 2 or 3, percent. cases: of the training set."""

    title: str
    cases: int
    mean_dice: float
    mean_iou: float
    median_dice: float
    median_iou: float


TABLE2: dict[str, Printed] = {
    "all": Printed("Froze all layers", 92, 90.0, 80.7, 90.0, 81.8),
    "3": Printed("Froze to block 3", 92, 72.1, 59.7, 81.0, 68.1),
    "2": Printed("Froze to block 2", 92, 84.3, 76.8, 90.3, 82.3),
    "1": Printed("Froze to block 1", 92, 77.6, 65.1, 81.8, 69.3),
    "none": Printed("Weights only", 92, 44.8, 38.1, 43.0, 27.4),
    "scratch": Printed("No transfer learning", 92, 41.8, 38.0, 43.0, 27.3),
}
"""By what is frozen, as `radnet-lake liver train --freeze`."""

TABLE3: dict[float, Printed] = {
    1.0: Printed("100%", 92, 90.0, 81.6, 90.1, 82.0),
    0.8: Printed("80%", 74, 84.7, 75.0, 89.0, 80.0),
    0.6: Printed("60%", 55, 84.2, 73.9, 87.2, 77.3),
    0.4: Printed("40%", 37, 87.0, 77.9, 90.9, 83.4),
    0.2: Printed("20%", 18, 80.0, 69.3, 86.5, 76.1),
}
"""By share of the training cases, all layers frozen."""

SPLIT = {"train": 92, "validation": 19, "test": 20}
"""LiTS cases of each split, section 3.2."""

MED3D_DICE = 94.6
"""Percent: liver, MED3D (Chen et al. 2019) as the paper's section 4 cites it; other test cases."""
