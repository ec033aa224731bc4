"""What a user relies on of overlays: outlines lie where the masks do, in all three planes."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from radnet_lake.transfer.overlay import draw_overlay, find_middle

POSITION = np.array([-20.0, 30.0, -400.0])
STEPS = np.array([[0, 0, 5.0], [0, 0.8, 0], [0.7, 0, 0]])


def make_mask() -> np.ndarray:
    mask = np.zeros((10, 40, 50), bool)
    mask[2:7, 10:31, 20:26] = True
    return mask


def read_outlines(figure, colour: str) -> list[tuple[float, float, float, float]]:
    """left, right, bottom, top in mm of the outline of a colour, in each plane that has one."""
    boxes = []
    for axes in figure.axes:
        points = [
            path.vertices
            for lines in axes.collections
            if lines.get_edgecolor()[0] == pytest.approx(to_rgba(colour))
            for path in lines.get_paths()
        ]
        if points:
            x, y = np.concatenate(points).T
            boxes.append((x.min(), x.max(), y.max(), y.min()))
    return boxes


def test_outlines_enclose_the_organ_in_each_plane() -> None:
    mask = make_mask()
    image = np.where(mask, 100.0, -50.0).astype(np.float32)
    figure = draw_overlay(image, {"liver": mask}, POSITION, STEPS, "a case")
    assert len(figure.axes) == 3
    # Of the middle (slice 4, row 20, column 22): 2 slices each way, 10 rows, 2 and 3 columns.
    axial, coronal, sagittal = read_outlines(figure, "#ffb000")
    assert axial == pytest.approx((-2.5 * 0.7, 3.5 * 0.7, 10.5 * 0.8, -10.5 * 0.8), abs=0.36)
    assert coronal == pytest.approx((-2.5 * 0.7, 3.5 * 0.7, 2.5 * 5, -2.5 * 5), abs=0.36)
    assert sagittal == pytest.approx((-10.5 * 0.8, 10.5 * 0.8, 2.5 * 5, -2.5 * 5), abs=0.41)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["liver"]


def test_an_outline_at_the_rim_closes_and_an_empty_mask_is_told() -> None:
    mask = np.ones((6, 8, 9), bool)
    image = np.zeros(mask.shape, np.int16)
    masks = {"found": np.zeros_like(mask), "truth": mask}
    figure = draw_overlay(image, masks, POSITION, STEPS, "a case")
    assert read_outlines(figure, "#ffb000") == []
    assert len(read_outlines(figure, "#40c4ff")) == 3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["found: none", "truth"]


def test_the_middle_lies_in_the_organ_not_between_its_parts() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[1:6] = mask[18] = True
    assert find_middle(mask).tolist() == [3, 9, 9]
