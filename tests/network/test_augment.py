"""Random changes keep what the labels say."""

import torch
from torch import Tensor

from radnet_lake.network.augment import augment


def make_volumes() -> Tensor:
    """(4, 1, 12, 64, 48) uint8: a body with a bright organ, blank slices at both ends."""
    volumes = torch.zeros(4, 1, 12, 64, 48, dtype=torch.uint8)
    volumes[:, :, 2:10, 8:56, 6:42] = 90
    volumes[:, :, 4:7, 16:24, 10:16] = 220
    return volumes


def locate(volumes: Tensor) -> Tensor:
    """(B, 3) centre of the brightest voxels of each volume."""
    places = []
    for volume in volumes:
        top = torch.quantile(volume[volume > 0].float(), 0.98)
        places.append((volume[0] >= top).nonzero().float().mean(0))
    return torch.stack(places)


def test_equal_seeds_make_equal_changes_and_others_do_not() -> None:
    volumes = make_volumes()
    first = augment(volumes, 5)
    torch.testing.assert_close(augment(volumes, 5), first, rtol=0, atol=0)
    assert not torch.equal(augment(volumes, 6), first)
    assert not torch.equal(first[0], first[1])


def test_grey_levels_stay_in_range_and_input_stays_as_it_was() -> None:
    volumes = make_volumes()
    for seed in range(5):
        changed = augment(volumes, seed)
        assert changed.shape == volumes.shape
        assert changed.dtype == torch.float32
        assert changed.min() >= 0
        assert changed.max() <= 255
    torch.testing.assert_close(volumes, make_volumes())


def test_slices_stay_where_they_are() -> None:
    for seed in range(10):
        changed = augment(make_volumes(), seed)
        assert not changed[:, :, :2].any()
        assert not changed[:, :, 10:].any()
        assert changed[:, :, 2:10].flatten(3).amax(3).min() > 0
        organ = changed[:, 0, :, 16:24, 10:16].mean((2, 3))  # (B, D)
        assert (organ[:, 4:7].min(1).values > organ[:, 2:4].max(1).values).all()


def test_nothing_is_mirrored_or_moved_far() -> None:
    at = locate(make_volumes())
    for seed in range(10):
        moved = (locate(augment(make_volumes(), seed)) - at).abs()
        assert moved[:, 0].max() < 0.5
        assert moved[:, 1:].max() < 12


def test_the_whole_image_stays_inside() -> None:
    """Turned, scaled and shifted as far as it can be, a body loses no more than its rim."""
    volume = torch.zeros(1, 1, 1, 64, 64, dtype=torch.uint8)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    volume[0, 0, 0][(rows - 31.5) ** 2 + (columns - 31.5) ** 2 < 26**2] = 128
    size = (volume > 0).sum()
    for seed in range(20):
        kept = (augment(volume, seed) > 0).sum() / size
        assert 0.8 < kept < 1.2
