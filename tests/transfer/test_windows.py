"""What a user relies on of regions: cut as in pretraining, and put back where they came from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radnet_lake.errors import SettingError
from radnet_lake.transfer.windows import (
    Region,
    bound_mask,
    choose_windows,
    cut_image,
    cut_mask,
    list_windows,
    paste,
)
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.volume import Volume, prepare_values

SETTINGS = ResampleSettings(8, 12, 12)
STEPS = np.array([[0, 0, 5.0], [0, 2.0, 0], [2.0, 0, 0]])


def make_image(depth: int, rows: int = 20, columns: int = 30, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-1000, 1000, (depth, rows, columns)).astype(np.int16)


def test_windows_of_the_paper() -> None:
    starts = [w.start[0] for w in list_windows(75, 48, 8, 512, 512)]
    assert starts == [0, 8, 16, 24, 27]
    assert list_windows(48, 48, 8, 2, 3) == [Region((0, 0, 0), (48, 2, 3))]
    # 13 blank slices before 21 and 14 after them, as in pretraining.
    assert list_windows(21, 48, 8, 2, 3) == [Region((-13, 0, 0), (48, 2, 3))]


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 20))
def test_windows_cover_a_case(depth: int, slices: int, stride: int) -> None:
    windows = list_windows(depth, slices, min(stride, slices), 4, 4)
    covered = np.zeros(depth, bool)
    for window in windows:
        covered[window.clip(depth)[0]] = True
    assert covered.all()
    assert len(set(windows)) == len(windows)
    assert depth <= slices or windows[-1].start[0] == depth - slices


def test_windows_above_the_threshold_else_the_first_highest() -> None:
    assert choose_windows([0.95, 0.2, 0.91]) == [0, 2]
    assert choose_windows([0.9, 0.2, 0.9]) == [0]
    assert choose_windows([0.1, 0.4, 0.4]) == [1]
    assert choose_windows([0.1, 0.4], threshold=0.3) == [1]


@pytest.mark.parametrize("depth", [5, 8, 13])
@pytest.mark.parametrize("anti_alias", [False, True])
def test_a_whole_case_is_cut_as_pretraining_would(depth: int, anti_alias: bool) -> None:
    image = make_image(depth)
    settings = ResampleSettings(8, 12, 12, clip="1,99", anti_alias=anti_alias)
    region = Region((0, 0, 0), image.shape)
    wanted = prepare_values(Volume(image.astype(np.float32), np.zeros(3), STEPS), settings)
    np.testing.assert_array_equal(cut_image(image, region, settings), wanted.voxels)


def test_what_sticks_out_is_blank_and_the_rest_stays_in_its_place() -> None:
    image = make_image(20)
    whole = cut_image(image[:5], Region((0, 0, 0), (5, 20, 30)), SETTINGS)
    cut = cut_image(image, Region((-3, 0, 0), (8, 20, 30)), SETTINGS)
    assert not cut[:3].any()
    np.testing.assert_array_equal(cut[3:], whole[1:6])
    mask = cut_mask(np.ones(image.shape, np.uint8), Region((15, 0, 0), (8, 20, 30)), SETTINGS)
    assert mask.reshape(8, -1).mean(axis=1).tolist() == [1] * 5 + [0] * 3


def test_a_region_of_one_value_is_all_blank() -> None:
    air = np.full((9, 20, 30), -1024, np.int16)
    assert not cut_image(air, Region((1, 0, 0), (8, 20, 30)), SETTINGS).any()


@pytest.mark.parametrize(
    "region",
    [
        Region((-3, 0, 0), (8, 20, 30)),
        Region((16, 0, 0), (8, 20, 30)),
        Region((6, 4, 6), (8, 12, 12)),
        Region((2, 4, 6), (6, 9, 21)),
        Region((2, 0, 0), (17, 20, 30)),
    ],
)
def test_a_mask_comes_back_where_it_was_cut(region: Region) -> None:
    zz, yy, xx = np.indices((20, 20, 30))
    mask = ((zz - 10) / 14) ** 2 + ((yy - 9) / 6) ** 2 + ((xx - 14) / 9) ** 2 < 1
    settings = ResampleSettings(8, 32, 32)
    values, place = paste(cut_mask(mask, region, settings), region, mask.shape)
    found, wanted = values >= 0.5, mask[place]
    assert values.dtype == np.float32
    assert found.shape == wanted.shape
    # Coarser voxels lose some of the rim, but do not move it.
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.93
    for axis in range(3):
        centre, due = (np.argwhere(m)[:, axis].mean() for m in (found, wanted))
        assert abs(centre - due) < 0.25


def test_without_resizing_nothing_is_lost() -> None:
    values = np.random.default_rng(1).random((8, 12, 12)).astype(np.float32)
    region = Region((-2, 3, 4), (8, 12, 12))
    part, place = paste(values, region, (20, 20, 30))
    np.testing.assert_array_equal(part, values[2:])
    assert place == (slice(0, 6), slice(3, 15), slice(4, 16))


def test_the_box_around_a_mask() -> None:
    mask = np.zeros((40, 20, 30), np.uint8)
    assert bound_mask(mask, 4, STEPS, SETTINGS) is None
    mask[18:20, 9:11, 1:5] = 1
    # 4 mm are one slice of 5 and two voxels of 2; the box ends at the rim, and has 8 slices.
    assert bound_mask(mask, 4, STEPS, SETTINGS) == Region((15, 7, 0), (8, 6, 7))
    mask[30:39] = 1
    assert bound_mask(mask, 4, STEPS, SETTINGS) == Region((17, 0, 0), (23, 20, 30))
    thin = mask[33:39]
    assert bound_mask(thin, 4, STEPS, SETTINGS) == Region((-1, 0, 0), (8, 20, 30))
    end = np.zeros_like(mask)
    end[39] = 1
    box = bound_mask(end, 0, STEPS, SETTINGS)
    assert box is not None
    assert box.start[0] + box.shape[0] == 40
    assert cut_mask(end, box, SETTINGS)[-1].all()


def test_what_cannot_be_cut_is_refused() -> None:
    image = make_image(20)
    square = ResampleSettings(8, 12, 12, pad_to_square=True)
    with pytest.raises(SettingError, match="pad_to_square"):
        cut_image(image, Region((0, 0, 0), (8, 20, 30)), square)
    for region in (
        Region((0, 0, 0), (8, 21, 30)),
        Region((0, -1, 0), (8, 20, 30)),
        Region((20, 0, 0), (8, 20, 30)),
        Region((15, 0, 0), (9, 20, 30)),
    ):
        with pytest.raises(ValueError, match="Region"):
            cut_mask(image, region, SETTINGS)
