"""The paper's resize against numpy's own interpolation: `np.interp` along each axis, in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.volume.resample import Grey, Resampler, ResampleSettings

HALF = 0.5 + 1e-3
"""Half a grey level, and what float32 rounds at its edge."""
SMALL = ResampleSettings(slices=8, rows=12, columns=10)


def draw(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * 900 - 200).astype(np.float32)


def interpolate(values: np.ndarray, target: Sequence[int]) -> np.ndarray:
    """Linear, half-pixel centres, edges replicated."""
    result = values.astype(np.float64)
    for axis, (n, m) in enumerate(zip(values.shape, target, strict=True)):
        places = (np.arange(m) + 0.5) * n / m - 0.5
        weights = np.stack([np.interp(places, np.arange(n), row) for row in np.eye(n)], axis=1)
        result = np.moveaxis(np.tensordot(weights, result, (1, axis)), 0, axis)
    return result


def to_grey(values: np.ndarray) -> np.ndarray:
    """Grey levels before they are rounded."""
    return np.asarray((values - values.min()) / (values.max() - values.min()) * 255)


def resample(
    values: np.ndarray,
    settings: ResampleSettings = SMALL,
    padding: np.ndarray | None = None,
    order: Sequence[int] | None = None,
    **kind: Any,
) -> Grey:
    resampler = Resampler((values.shape[0], values.shape[1], values.shape[2]), settings)
    needed = resampler.needed
    for k in needed if order is None else [k for k in order if k in needed]:
        mask = None if padding is None or not padding[k].any() else padding[k]
        resampler.add(k, values[k], mask)
    return resampler.finish(**kind)


def filled(grey: Grey) -> np.ndarray:
    return grey.voxels[grey.blank_before : grey.blank_before + grey.slices_filled]


@pytest.mark.parametrize(
    "shape",
    [
        (120, 100, 80),
        (48, 384, 384),
        (20, 64, 512),
        (49, 193, 191),
        (96, 192, 192),
        (47, 33, 700),
        (1, 2, 3),
        (500, 16, 16),
    ],
)
def test_resize_is_linear_interpolation_within_half_a_grey_level(
    shape: tuple[int, int, int],
) -> None:
    values = draw(shape)
    grey = resample(values, ResampleSettings())
    assert grey.voxels.shape == (48, 192, 192)
    assert grey.voxels.dtype == np.uint8
    depth = min(shape[0], 48)
    due = interpolate(values, (depth, 192, 192))
    assert grey.slices_filled == depth
    assert np.abs(filled(grey) - to_grey(due)).max() <= HALF
    assert (grey.value_min, grey.value_max) == pytest.approx((due.min(), due.max()), rel=1e-5)
    assert (filled(grey).min(), filled(grey).max()) == (0, 255)


@pytest.mark.parametrize(("depth", "before"), [(48, 0), (47, 0), (46, 1), (17, 15), (16, 16)])
def test_fewer_slices_stand_in_the_middle_between_blank_ones(depth: int, before: int) -> None:
    grey = resample(draw((depth, 5, 5)) + 5000, ResampleSettings(rows=5, columns=5))
    assert (grey.blank_before, grey.slices_filled) == (before, depth)
    blank = np.delete(grey.voxels, np.s_[before : before + depth], axis=0)
    assert blank.shape[0] == 48 - depth
    assert not blank.any()
    assert grey.origin[0] == -before
    assert grey.scale[0] == 1


@pytest.mark.parametrize("anti_alias", [False, True])
def test_slices_may_come_in_any_order(anti_alias: bool) -> None:
    values = draw((100, 40, 30))
    settings = ResampleSettings(slices=8, rows=12, columns=10, anti_alias=anti_alias)
    forward = resample(values, settings)
    shuffled = resample(values, settings, order=np.random.default_rng(1).permutation(100).tolist())
    assert np.array_equal(forward.voxels, shuffled.voxels)


@pytest.mark.parametrize("depth", [96, 97, 1000, 50_000])
def test_few_slices_of_a_deep_series_are_needed(depth: int) -> None:
    needed = Resampler((depth, 512, 512), ResampleSettings()).needed
    assert len(needed) <= 96
    assert needed == sorted(set(needed))
    assert 0 <= needed[0] < depth / 48
    assert depth - depth / 48 <= needed[-1] < depth


def test_where_slices_meet_only_those_are_needed() -> None:
    assert Resampler((144, 4, 4), ResampleSettings()).needed == list(range(1, 144, 3))


def test_padding_takes_the_lowest_other_value() -> None:
    values = draw((20, 40, 30))
    padding = np.zeros(values.shape, bool)
    padding[:, :9] = padding[5:7, :, 20:] = True
    padding[12] = True
    used = Resampler((20, 40, 30), SMALL).needed
    low = values[used][~padding[used]].min()
    marked = np.where(padding, np.float32(-3024), values)
    due = to_grey(interpolate(np.where(padding, low, values), (8, 12, 10)))
    grey = resample(marked, padding=padding)
    assert np.abs(grey.voxels - due).max() <= HALF
    assert grey.value_min == pytest.approx(low, rel=1e-6)
    assert grey.padded_share == pytest.approx(padding[used].mean())


def test_inverted_padding_is_dark_too() -> None:
    values = draw((20, 40, 30))
    padding = np.zeros(values.shape, bool)
    padding[:, :9] = True
    used = Resampler((20, 40, 30), SMALL).needed
    high = values[used][~padding[used]].max()
    due = 255 - to_grey(interpolate(np.where(padding, high, values), (8, 12, 10)))
    grey = resample(np.where(padding, np.float32(-3024), values), padding=padding, inverted=True)
    assert np.abs(grey.voxels - due).max() <= HALF
    assert not grey.voxels[:, 0].any()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float64])
@pytest.mark.parametrize("slope", [0.25, -3.0])
def test_each_slice_is_rescaled_by_its_own_numbers(kind: type, slope: float) -> None:
    stored = np.random.default_rng(0).integers(0, 200, (20, 40, 30)).astype(kind)
    slopes, intercepts = slope * np.arange(1, 21), np.linspace(-1000, 300, 20)
    padding = stored > 190
    padding[7] = False
    resampler = Resampler((20, 40, 30), SMALL)
    for k in resampler.needed:
        mask = padding[k] if padding[k].any() else None
        resampler.add(k, stored[k], mask, float(slopes[k]), float(intercepts[k]))
    grey = resampler.finish()
    values = stored * slopes[:, None, None] + intercepts[:, None, None]
    used = resampler.needed
    values[padding] = values[used][~padding[used]].min()
    due = interpolate(values, (8, 12, 10))
    assert np.abs(grey.voxels - to_grey(due)).max() <= HALF
    assert grey.value_max == pytest.approx(due.max(), rel=1e-5)


@pytest.mark.parametrize("is_padded", [False, True])
def test_values_are_raised_to_the_lowest_one_allowed(is_padded: bool) -> None:
    stored = np.random.default_rng(0).integers(-3024, 1000, (20, 40, 30)).astype(np.int16)
    stored[::2] = np.maximum(stored[::2], 0)
    padding = stored < -2900
    resampler = Resampler((20, 40, 30), SMALL)
    for k in resampler.needed:
        mask = padding[k] if is_padded and padding[k].any() else None
        resampler.add(k, stored[k], mask, 2.0, 24.0, lowest=-1024.0)
    due = to_grey(interpolate(np.maximum(stored * 2.0 + 24, -1024), (8, 12, 10)))
    assert np.abs(resampler.finish().voxels - due).max() <= HALF


def test_clipping_cuts_both_tails_before_min_max() -> None:
    values = draw((8, 12, 10))
    values[3, 4, 5] = 1e6
    plain = resample(values)
    assert plain.grey_p99 <= 1
    clipped = resample(values, ResampleSettings(slices=8, rows=12, columns=10, clip="5, 95"))
    low, high = np.percentile(values, [5, 95])
    due = to_grey(np.clip(values.astype(np.float64), low, high))
    assert np.abs(clipped.voxels - due).max() <= HALF
    assert (clipped.value_min, clipped.value_max) == pytest.approx((low, high), rel=1e-5)
    assert clipped.grey_p99 == 255


def test_anti_aliasing_averages_what_a_voxel_covers() -> None:
    values = draw((24, 36, 5))
    settings = ResampleSettings(slices=8, rows=12, columns=10, anti_alias=True)
    grey = resample(values, settings)
    # Columns grow, so they are interpolated; the others are means of whole blocks.
    blocks = values.reshape(8, 3, 12, 3, 5).mean(axis=(1, 3), dtype=np.float64)
    assert np.abs(grey.voxels - to_grey(interpolate(blocks, (8, 12, 10)))).max() <= HALF


def test_anti_aliasing_takes_shares_of_what_lies_on_an_edge() -> None:
    values = draw((10, 12, 10))
    grey = resample(values, ResampleSettings(slices=8, rows=12, columns=10, anti_alias=True))
    fine = np.repeat(values.astype(np.float64), 8, axis=0)
    due = to_grey(fine.reshape(8, 10, 12, 10).mean(axis=1))
    assert np.abs(grey.voxels - due).max() <= HALF


def test_padding_to_a_square_keeps_proportions_in_mm() -> None:
    settings = ResampleSettings(slices=8, rows=48, columns=48, pad_to_square=True)
    values = draw((8, 30, 30)) + 9000
    resampler = Resampler((8, 30, 30), settings, pixel_spacing_mm=(0.5, 1.0))
    for k in resampler.needed:
        resampler.add(k, values[k])
    grey = resampler.finish()
    assert not grey.voxels[:, :12].any()
    assert not grey.voxels[:, 36:].any()
    assert grey.voxels[:, 12:36].any(axis=(0, 2)).all()
    assert grey.scale[1] * 0.5 == grey.scale[2] * 1.0
    assert np.abs(grey.voxels[:, 12:36] - to_grey(interpolate(values, (8, 24, 48)))).max() <= HALF


@pytest.mark.parametrize("pad_to_square", [False, True])
@pytest.mark.parametrize("pixel_spacing_mm", [(1.0, 1.0), (1.0, 50.0), (3.0, 0.001)])
def test_the_middle_stays_in_place(
    pixel_spacing_mm: tuple[float, float], pad_to_square: bool
) -> None:
    target, source = (8, 13, 10), (30, 7, 21)
    settings = ResampleSettings(*target, pad_to_square=pad_to_square)
    resampler = Resampler(source, settings, pixel_spacing_mm)
    for k in resampler.needed:
        resampler.add(k, draw(source[1:], k))
    grey = resampler.finish()
    for n, m, scale, origin in zip(source, target, grey.scale, grey.origin, strict=True):
        # An odd number of blank rows cannot be shared evenly.
        assert origin + scale * (m - 1) / 2 == pytest.approx((n - 1) / 2, abs=scale / 2 + 1e-9)


def test_percentiles_leave_blank_slices_out() -> None:
    values = np.full((2, 4, 4), 100.0, np.float32)
    values[0, 0, 0] = 0
    grey = resample(values, ResampleSettings(slices=48, rows=4, columns=4))
    assert (grey.grey_p01, grey.grey_p99) == (0, 255)
    assert resample(values[:1], ResampleSettings(slices=48, rows=4, columns=4)).grey_p99 == 255
    spread = np.arange(10_000, dtype=np.float32).reshape(1, 100, 100)
    grey = resample(spread, ResampleSettings(slices=48, rows=100, columns=100))
    assert (grey.grey_p01, grey.grey_p99) == (3, 252)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_are_not_finite_are_refused(odd: float) -> None:
    values = draw((8, 12, 10))
    values[2, 3, 4], values[3, 3, 4] = odd, -odd
    with pytest.raises(VolumeError, match="not_finite"):
        resample(values)


def test_rescaled_past_float32_is_refused() -> None:
    resampler = Resampler((1, 2, 2), SMALL)
    resampler.add(0, np.array([[0, 1], [2, 3]], np.uint16), None, 1e300, 0.0)
    with pytest.raises(VolumeError, match="not_finite"):
        resampler.finish()


def test_constant_volumes_are_refused() -> None:
    flat = np.full((8, 12, 10), 7, np.int16)
    with pytest.raises(VolumeError, match="constant"):
        resample(flat)
    with pytest.raises(VolumeError, match="constant: all voxels are padding"):
        resample(flat, padding=np.ones(flat.shape, bool))
    flat[0, 0, 0] = 9
    with pytest.raises(VolumeError, match="constant"):
        resample(flat, padding=flat == 9)


def test_slices_must_fit_and_be_complete() -> None:
    resampler = Resampler((2, 4, 4), SMALL)
    with pytest.raises(VolumeError, match="size_mismatch"):
        resampler.add(0, np.zeros((4, 5), np.int16))
    resampler.add(0, np.zeros((4, 4), np.int16))
    with pytest.raises(KeyError):
        resampler.add(0, np.zeros((4, 4), np.int16))
    with pytest.raises(ValueError, match="1 of 2 slices were not added"):
        resampler.finish()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"slices": 0}, "--slices"),
        ({"rows": -1}, "--rows"),
        ({"columns": 5000}, "--columns"),
        ({"slices": 4096, "rows": 4096}, "--slices, --rows, --columns"),
        ({"clip": "5"}, "--clip"),
        ({"clip": "5,five"}, "--clip"),
        ({"clip": "95,5"}, "--clip"),
        ({"clip": "0,101"}, "--clip"),
        ({"clip": "nan,50"}, "--clip"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(SettingError) as caught:
        ResampleSettings(**settings)
    assert caught.value.where == flag
    assert caught.value.remedy


def test_each_setting_makes_another_version() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"slices": 47}, {"rows": 191}, {"columns": 191}, {"pad_to_square": True},
        {"clip": "0.1,99.9"}, {"clip": "0.1,99"}, {"anti_alias": True},
    ]  # fmt: skip
    versions = {ResampleSettings(**change).version() for change in changes}
    assert len(versions) == len(changes)
    assert ResampleSettings(clip=" 0.1, 99.90").version() in versions
