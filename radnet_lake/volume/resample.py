"""The paper's resize, to the voxel: slices of any shape -> a uint8 volume of a fixed one.

Order: values -> resize -> min-max -> 256 grey levels (3D-RADNet 2.2). All resizing is linear in
float32 with half-pixel centres: voxel j of m lies at (j + 0.5) n / m - 0.5 of the n source voxels,
edges replicated, as in PyTorch's `interpolate(align_corners=False)`. So extent is kept and spacing
becomes spacing n / m, in plane (rows and columns each for itself) and, where there are more slices
than wanted, along slices. Fewer slices are not resampled: they stand in the middle, blank slices
before them (wanted - n) // 2, the rest after. Grey = floor(255 (v - min) / (max - min) + 0.5) over
all voxels that are not blank; blank voxels are 0.

Padding (voxels that the scanner marked as outside the image) takes the lowest value of the other
voxels of the slices that count; of an inverted image (MONOCHROME1) the highest, and then
v -> max + min - v.

Without anti-aliasing most slices of a deep series have no weight: only `Resampler.needed` are
read, in any order, and what is held is of the target's size, whatever the depth.
"""

import hashlib
import math
from dataclasses import astuple, dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.volume.frame import Array, Stored

PREPROCESSING_VERSION = 1
"""To be raised with every change of the volumes that equal settings give, here or in volume.py."""
MAX_VOXELS = 2**26
"""Of a resized volume: 256 MiB in float32."""
MAX_RANGE = 1e37
MIN_RANGE = 1e-35
"""Between lowest and highest value, so that float32 can resolve 256 levels."""

# Ray's workers are processes, one for each core.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class ResampleSettings:
    """Shape and grey levels of the resized volumes. The defaults are the paper's."""

    slices: int = 48
    """slices of a volume; fewer are centred between blank ones"""
    rows: int = 192
    """rows of a volume"""
    columns: int = 192
    """columns of a volume"""
    pad_to_square: bool = False
    """keep the pixels' true proportions (mm), with blank margins on the shorter side"""
    clip: str = ""
    """percentiles that values are clipped to before min-max, as 0.1,99.9 (default: none)"""
    anti_alias: bool = False
    """average over the voxels that a larger one covers; then all slices are read"""

    def __post_init__(self) -> None:
        for flag in ("slices", "rows", "columns"):
            if not 1 <= (value := getattr(self, flag)) <= 4096:
                raise SettingError(f"{value} is out of range", f"--{flag}", "give 1 to 4096")
        if self.slices * self.rows * self.columns > MAX_VOXELS:
            where, remedy = "--slices, --rows, --columns", f"at most {MAX_VOXELS} voxels"
            raise SettingError("the volume is too large", where, remedy)
        if self.percentiles and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise SettingError("is no range of percentiles", "--clip", "write it as 0.1,99.9")

    @property
    def percentiles(self) -> tuple[float, float] | None:
        """`clip` as numbers. Raises SettingError."""
        if not self.clip:
            return None
        try:
            low, high = map(float, self.clip.split(","))
        except ValueError:
            raise SettingError("is not two numbers", "--clip", "write it as 0.1,99.9") from None
        return low, high

    def version(self) -> str:
        """Name of the preprocessing by these settings and this code: column `preprocessing`."""
        clip = "" if self.percentiles is None else "{:g},{:g}".format(*self.percentiles)
        settings = repr(astuple(replace(self, clip=clip)))
        digest = hashlib.blake2b(settings.encode(), digest_size=4).hexdigest()
        return f"{PREPROCESSING_VERSION}-{digest}"


class Grey(NamedTuple):
    """A resized volume in grey levels.

    voxels: (slices, rows, columns). value_min, value_max: values of grey levels 0 and 255.
    grey_p01, grey_p99: percentiles of the voxels that are not blank. padded_share: of the source
    voxels read. scale: source voxels per voxel, along slices, rows, columns. origin: where the
    centre of voxel [0, 0, 0] lies, in source voxels (slice, row, column).
    """

    voxels: npt.NDArray[np.uint8]
    value_min: float
    value_max: float
    grey_p01: int
    grey_p99: int
    blank_before: int
    slices_filled: int
    padded_share: float
    scale: tuple[float, float, float]
    origin: tuple[float, float, float]


class Resampler:
    """Resizes one volume, slice by slice in any order.

    `needed`: indices of the slices that have weight; each must be added once.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: ResampleSettings,
        pixel_spacing_mm: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """shape: of the source, (D, H, W). pixel_spacing_mm: between its rows, columns."""
        self._shape, self._settings = shape, settings
        self._size = _fit_plane(shape, settings, pixel_spacing_mm)
        filled = min(shape[0], settings.slices)
        self._waiting = _weigh_slices(shape[0], filled, settings.anti_alias)
        self.needed = sorted(self._waiting)
        # Slices come in any order: two terms add up to the same, many only in double precision.
        kind = np.float64 if settings.anti_alias else np.float32
        self._planes: npt.NDArray[Any] = np.zeros((filled, *self._size), kind)
        self._fill: npt.NDArray[Any] | None = None
        self._low, self._high, self._n_padding = math.inf, -math.inf, 0
        self._source = np.empty(shape[1:], np.float32)

    def add(
        self,
        k: int,
        values: Stored,
        padding: npt.NDArray[np.bool_] | None = None,
        slope: float = 1.0,
        intercept: float = 0.0,
        lowest: float = -math.inf,
    ) -> None:
        """Add slice k of `needed`: slope * values + intercept, (H, W), raised to `lowest`.

        padding: True where it is. Raises VolumeError size_mismatch; KeyError for a slice that is
        not needed, or was added.
        """
        if values.shape != self._shape[1:]:
            raise VolumeError("size_mismatch", f"{values.shape} where {self._shape[1:]} is due")
        weights, source = self._waiting.pop(k), self._source
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(source, values, casting="unsafe")
            ends = _find_ends(values) if padding is None else _find_other_ends(source, padding)
            low, high = sorted(slope * end + intercept for end in ends)
            if low < lowest:
                source *= np.float32(slope)
                source += np.float32(intercept)
                np.maximum(source, np.float32(lowest), out=source)
                slope, intercept, low, high = 1.0, 0.0, lowest, max(high, lowest)
            if padding is not None:
                np.copyto(source, np.float32(0), where=padding)
            # What is linear may follow the resize, on a smaller plane.
            plane = self._resize(source)
            plane *= np.float32(slope)
            if padding is None:
                plane += np.float32(intercept)
            else:
                share = self._resize(padding.astype(np.float32))
                plane += np.float32(intercept) * (1 - share)
                self._n_padding += int(np.count_nonzero(padding))
                if self._fill is None:
                    self._fill = np.zeros_like(self._planes)
                _add_plane(self._fill, weights, share)
        # NaN stays out here, and is found in the planes.
        self._low, self._high = min(self._low, low), max(self._high, high)
        _add_plane(self._planes, weights, plane)

    def finish(self, inverted: bool = False) -> Grey:
        """The volume, once all of `needed` were added.

        inverted: high values are dark. Raises VolumeError not_finite, constant.
        """
        if self._waiting:
            raise ValueError(f"{len(self._waiting)} of {len(self.needed)} slices were not added")
        planes, settings = self._planes, self._settings
        if self._fill is not None:
            fill = self._high if inverted else self._low
            if not math.isfinite(fill):
                raise VolumeError("constant", "all voxels are padding")
            planes += fill * self._fill
        low, high = _find_range(planes)
        if inverted:
            np.subtract(low + high, planes, out=planes)
        if settings.percentiles:
            low, high = map(float, np.percentile(planes, settings.percentiles))
            np.clip(planes, low, high, out=planes)
            low, high = _find_range(planes)
        filled = _quantise(planes, low, high)
        p01, p99 = _find_percentiles(filled)
        target = (settings.slices, settings.rows, settings.columns)
        before = [(m - n) // 2 for m, n in zip(target, filled.shape, strict=True)]
        voxels = np.zeros(target, np.uint8)
        voxels[tuple(slice(b, b + n) for b, n in zip(before, filled.shape, strict=True))] = filled
        scale = [n / m for n, m in zip(self._shape, filled.shape, strict=True)]
        origin = [(0.5 - b) * s - 0.5 for b, s in zip(before, scale, strict=True)]
        read = len(self.needed) * self._shape[1] * self._shape[2]
        return Grey(
            voxels, low, high, p01, p99, before[0], len(filled), self._n_padding / read,
            (scale[0], scale[1], scale[2]), (origin[0], origin[1], origin[2]),
        )  # fmt: skip

    def _resize(self, source: Array) -> Array:
        size = self._size
        if self._settings.anti_alias:
            for shrunk in ((size[0], source.shape[1]), size):
                is_less = shrunk[0] < source.shape[0] or shrunk[1] < source.shape[1]
                how = cv2.INTER_AREA if is_less else cv2.INTER_LINEAR
                source = cv2.resize(source, shrunk[::-1], interpolation=how)  # type: ignore[assignment]
            return source
        plane = cv2.resize(source, size[::-1], interpolation=cv2.INTER_LINEAR)
        return plane  # type: ignore[return-value]


def _find_ends(values: Stored) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _find_other_ends(source: Array, padding: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Minimum and maximum of the values that are no padding; NaN if there are none."""
    low, high, _, _ = cv2.minMaxLoc(source, (~padding).view(np.uint8))
    return (math.nan, math.nan) if padding.all() else (low, high)


def _add_plane(
    planes: npt.NDArray[Any], weights: list[tuple[int, float]], plane: npt.NDArray[Any]
) -> None:
    plane = plane.astype(planes.dtype, copy=False)
    for j, weight in weights:
        cv2.scaleAdd(plane, weight, planes[j], planes[j])


def _fit_plane(
    shape: tuple[int, int, int], settings: ResampleSettings, spacing: tuple[float, float]
) -> tuple[int, int]:
    """Rows and columns that the image takes of the target."""
    if not settings.pad_to_square:
        return settings.rows, settings.columns
    height, width = shape[1] * spacing[0], shape[2] * spacing[1]
    step = max(height / settings.rows, width / settings.columns)
    return max(1, round(height / step)), max(1, round(width / step))


def _weigh_slices(n: int, m: int, anti_alias: bool) -> dict[int, list[tuple[int, float]]]:
    """n source and m target slices -> for each source slice its target slices and weights."""
    j, k = np.arange(m)[:, None], np.arange(n)
    if anti_alias:
        # In m-ths of a slice, so that edges that meet are equal.
        shared = np.minimum((k + 1) * m, (j + 1) * n) - np.maximum(k * m, j * n)
        weights = np.maximum(shared, 0) / n
    else:
        # One division of integers: where a centre meets a slice's, its neighbour gets nothing.
        place = np.clip(((2 * j + 1) * n - m) / (2 * m), 0, n - 1)
        weights = np.maximum(0, 1 - np.abs(k - place))
    found: dict[int, list[tuple[int, float]]] = {}
    for target, index in zip(*np.nonzero(weights), strict=True):
        found.setdefault(int(index), []).append((int(target), float(weights[target, index])))
    return found


def _find_range(planes: npt.NDArray[Any]) -> tuple[float, float]:
    low, high = float(planes.min()), float(planes.max())
    if not (math.isfinite(low) and math.isfinite(high) and high - low < MAX_RANGE):
        raise VolumeError("not_finite", "values that are no finite numbers")
    if high - low < MIN_RANGE:
        raise VolumeError("constant", f"all values are {low:g}")
    return low, high


def _quantise(planes: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    grey = np.empty(planes.shape, np.uint8)
    scale = 255 / (high - low)
    for plane, level in zip(planes, grey, strict=True):
        plane -= low
        plane *= scale
        plane += 0.5
        np.copyto(level, plane, casting="unsafe")
    return grey


def _find_percentiles(grey: npt.NDArray[np.uint8]) -> tuple[int, int]:
    counts = cv2.calcHist([grey.reshape(-1)], [0], None, [256], [0, 256])
    reached = np.cumsum(counts.astype(np.float64)) / grey.size
    return int(np.searchsorted(reached, 0.01)), int(np.searchsorted(reached, 0.99))
