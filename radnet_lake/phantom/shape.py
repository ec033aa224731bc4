"""Takes a digital patient as a list of shapes and a grid, gives the tissue code of each voxel.

Shapes have nominal adult coordinates (LPS mm: x to the left, y to the back, z up, z = 0 at the
symphysis); later ones paint over earlier ones. The patient's size is a scale of these coordinates,
so an oblique grid is sampled without an intermediate volume. Arrays are (D, H, W).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from radnet_lake.phantom.tissue import CODES, Array, Labels

Vector = npt.NDArray[np.float64]
Point = tuple[float, float, float]


class Grid(NamedTuple):
    """A sampling grid: centre of voxel (0, 0, 0), steps to the next slice, row, column, LPS mm."""

    origin: Vector  # (3,)
    steps: Vector  # (3, 3): one row per axis of the array
    shape: tuple[int, int, int]


class Blob(NamedTuple):
    """A superellipsoid |u|^p + |v|^p + |w|^p <= 1, turned by `turn` degrees about x, y, z."""

    tissue: str
    center: Point
    radii: Point
    power: float = 2.0
    turn: Point = (0.0, 0.0, 0.0)
    ripple: float = 0.0  # share of the radius by which the surface folds
    wave: float = 7.0  # length of a fold, mm
    over: str = ""  # paint only over this tissue


class Tube(NamedTuple):
    """A round tube along a polyline."""

    tissue: str
    path: tuple[Point, ...]
    radius: float
    over: str = ""


class Trunk(NamedTuple):
    """Ellipses stacked along z: knots of (z, centre y, radius x, radius y), less `inset` mm."""

    tissue: str
    knots: tuple[tuple[float, float, float, float], ...]
    inset: float = 0.0


Shape = Blob | Tube | Trunk


class Patient(NamedTuple):
    """One digital patient: sex (F or M), age in years, scale of nominal coordinates.

    shapes: in painting order, tubes as straight segments. bounds: (n, 2, 3), their boxes.
    """

    sex: str
    age: int
    scale: Point
    shapes: tuple[Shape, ...]
    bounds: Vector


def assemble_patient(sex: str, age: int, scale: Point, shapes: list[Shape]) -> Patient:
    """Shapes in painting order -> patient; tubes become straight segments with tight boxes."""
    segments: list[Shape] = []
    for shape in shapes:
        if isinstance(shape, Tube):
            ends = zip(shape.path[:-1], shape.path[1:], strict=True)
            segments += [shape._replace(path=pair) for pair in ends]
        else:
            segments.append(shape)
    bounds = np.array([_bound_shape(segment) for segment in segments])
    return Patient(sex, age, scale, tuple(segments), bounds)


def _bound_shape(shape: Shape) -> tuple[Vector, Vector]:
    if isinstance(shape, Tube):
        ends = np.array(shape.path)
        return ends.min(0) - shape.radius, ends.max(0) + shape.radius
    if isinstance(shape, Trunk):
        z, y, rx, ry = np.array(shape.knots).T
        wide, deep = rx.max() - shape.inset, (np.abs(y) + ry).max() - shape.inset
        return np.array([-wide, -deep, z[0]]), np.array([wide, deep, z[-1]])
    reach = np.abs(turn_axes(shape.turn).T) @ np.array(shape.radii) * (1 + 2 * shape.ripple)
    return np.array(shape.center) - reach, np.array(shape.center) + reach


def paint_labels(patient: Patient, grid: Grid) -> Labels:
    """Patient and grid -> tissue code per voxel, (D, H, W) uint8, index into TISSUES."""
    scale = np.asarray(patient.scale)
    nominal = Grid(grid.origin / scale, grid.steps / scale, grid.shape)
    labels: Labels = np.zeros(grid.shape, np.uint8)
    to_index = np.linalg.inv(nominal.steps.T)
    middle = (patient.bounds.mean(1) - nominal.origin) @ to_index.T
    reach = np.ptp(patient.bounds, axis=1) / 2 @ np.abs(to_index).T
    first = np.clip(np.floor(middle - reach), 0, grid.shape).astype(int)
    last = np.clip(np.ceil(middle + reach) + 1, 0, grid.shape).astype(int)
    lines = _lay_lines(nominal)
    for number in np.flatnonzero((first < last).all(1)):
        shape = patient.shapes[number]
        block = tuple(slice(a, b) for a, b in zip(first[number], last[number], strict=True))
        x, y, z = (_place_block(line, block) for line in lines)
        if isinstance(shape, Tube):
            inside = _fill_tube(shape, x, y, z)
        elif isinstance(shape, Trunk):
            inside = _fill_trunk(shape, x, y, z)
        else:
            inside = _fill_blob(shape, x, y, z)
        view = labels[block]
        if not isinstance(shape, Trunk) and shape.over:
            inside = inside & (view == CODES[shape.over])
        np.copyto(view, CODES[shape.tissue], where=inside)
    return labels


def _lay_lines(grid: Grid) -> list[list[tuple[int, Array]]]:
    """For x, y and z: the term of each array axis that changes it, shaped to broadcast."""
    lines: list[list[tuple[int, Array]]] = []
    for coordinate in range(3):
        parts = []
        moving = [a for a in range(3) if abs(grid.steps[a, coordinate]) > 1e-9]
        for axis in moving:
            line = np.arange(grid.shape[axis]) * grid.steps[axis, coordinate]
            line += grid.origin[coordinate] if axis == moving[0] else 0
            shape = [-1 if a == axis else 1 for a in range(3)]
            parts.append((axis, line.astype(np.float32).reshape(shape)))
        lines.append(parts)
    return lines


def _place_block(parts: list[tuple[int, Array]], block: tuple[slice, ...]) -> Array:
    segments = []
    for axis, line in parts:
        segments.append(line[tuple(block[a] if a == axis else slice(None) for a in range(3))])
    total = segments[0]
    for segment in segments[1:]:
        total = total + segment
    return total


def _fill_blob(blob: Blob, x: Array, y: Array, z: Array) -> npt.NDArray[np.bool_]:
    offsets = [place - c for place, c in zip((x, y, z), blob.center, strict=True)]
    total: Any = 0.0
    for axis, radius in zip(turn_axes(blob.turn), blob.radii, strict=True):
        part: Any = 0.0
        for share, offset in zip(axis / radius, offsets, strict=True):
            if abs(share) > 1e-12:
                part = part + np.float32(share) * offset
        total = total + (part * part if blob.power == 2.0 else np.abs(part) ** blob.power)
    limit: Any = 1.0
    if blob.ripple:
        wave = np.float32(2 * np.pi / (3 * blob.wave))
        u, v, w = wave * x, wave * y, wave * z
        folds = np.sin(u + 0.8 * np.sin(v)) + np.sin(1.1 * v + 0.9 * np.sin(w))
        limit = 1 + blob.ripple * (folds + np.sin(1.2 * w + np.sin(u)))
    return np.asarray(total <= limit)


def _fill_tube(tube: Tube, x: Array, y: Array, z: Array) -> npt.NDArray[np.bool_]:
    (ax, ay, az), (bx, by, bz) = tube.path
    dx, dy, dz = bx - ax, by - ay, bz - az
    x, y, z = x - ax, y - ay, z - az
    share = np.clip((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz), 0, 1)
    gap = (x - share * dx) ** 2 + (y - share * dy) ** 2 + (z - share * dz) ** 2
    return np.asarray(gap <= tube.radius**2)


def _fill_trunk(trunk: Trunk, x: Array, y: Array, z: Array) -> npt.NDArray[np.bool_]:
    level, *knots = np.array(trunk.knots).T
    middle, wide, deep = (np.interp(z, level, values).astype(np.float32) for values in knots)
    inside = (x / (wide - trunk.inset)) ** 2 + ((y - middle) / (deep - trunk.inset)) ** 2 <= 1
    return np.asarray(inside & (z >= level[0]) & (z <= level[-1]))


def turn_axes(turn: Point) -> Vector:
    """Degrees about x, y, z -> rotated axes x, y, z as rows; rotated about x first, z last."""
    axes = np.eye(3)
    for fixed, degrees in enumerate(turn):
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        a, b = [(1, 2), (2, 0), (0, 1)][fixed]
        rotation = np.eye(3)
        rotation[a, a], rotation[a, b], rotation[b, a], rotation[b, b] = cos, sin, -sin, cos
        axes = axes @ rotation
    return axes


def mirror_shape(shape: Blob | Tube) -> Blob | Tube:
    """Shape -> its mirror image on the other side of the body."""
    if isinstance(shape, Tube):
        return shape._replace(path=tuple((-x, y, z) for x, y, z in shape.path))
    (x, y, z), (a, b, c) = shape.center, shape.turn
    return shape._replace(center=(-x, y, z), turn=(a, -b, -c))
