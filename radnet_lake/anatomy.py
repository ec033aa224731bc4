"""The digital patients of the phantom archive, and what CT and MR make of their tissues.

A patient is a list of simple shapes in nominal adult coordinates (LPS mm: x to the left, y to the
back, z up, z = 0 at the symphysis); later shapes paint over earlier ones. The patient's own size is
an affine map on top, so any oblique grid is sampled without an intermediate volume.
Arrays are (D, H, W): slices along the stacking direction, rows, columns.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]
Point = tuple[float, float, float]


class Tissue(NamedTuple):
    """CT number (HU), proton density, T1, T2 (ms, 1.5 and 3 T), ADC (1e-3 mm2/s), uptake, flow.

    uptake: agent concentration relative to blood in the venous phase. flow: 1 where blood moves.
    Values are rounded from common relaxometry and CT tables; they have to rank tissues rightly.
    """

    hu: float
    pd: float
    t1: tuple[float, float]
    t2: tuple[float, float]
    adc: float
    uptake: float
    flow: float = 0.0


TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000, 0.0, (1000, 1000), (10, 10), 0, 0),
    "skin": Tissue(25, 0.55, (700, 850), (35, 32), 0.5, 0.2),
    "fat": Tissue(-100, 0.90, (260, 370), (85, 75), 0.05, 0.02),
    "muscle": Tissue(55, 0.75, (950, 1300), (45, 38), 1.5, 0.09),
    "bone": Tissue(900, 0.06, (900, 1000), (5, 5), 0.1, 0.0),
    "marrow": Tissue(210, 0.62, (420, 480), (62, 55), 0.4, 0.08),
    "lung": Tissue(-830, 0.10, (1200, 1300), (30, 25), 1.0, 0.05),
    "gas": Tissue(-990, 0.0, (1000, 1000), (10, 10), 0, 0),
    "csf": Tissue(8, 1.0, (4200, 4200), (1800, 1600), 3.0, 0.0),
    "grey": Tissue(39, 0.84, (1000, 1400), (98, 88), 0.85, 0.03),
    "white": Tissue(28, 0.70, (600, 840), (78, 70), 0.72, 0.02),
    "basal": Tissue(38, 0.80, (850, 1150), (84, 74), 0.78, 0.03),
    "edema": Tissue(20, 0.90, (1300, 1700), (170, 150), 1.3, 0.03),
    "glioma": Tissue(36, 0.88, (1300, 1650), (130, 115), 0.9, 0.55),
    "vitreous": Tissue(6, 1.0, (4000, 4100), (900, 800), 2.8, 0.0),
    "artery": Tissue(45, 0.9, (1440, 1650), (220, 180), 2.0, 1.15, 1.0),
    "vein": Tissue(45, 0.9, (1440, 1650), (200, 160), 2.0, 1.0, 0.2),
    "heart": Tissue(50, 0.78, (1000, 1250), (52, 46), 1.5, 0.55, 0.3),
    "liver": Tissue(58, 0.72, (580, 810), (46, 36), 1.1, 0.40),
    "liver_vessel": Tissue(45, 0.85, (1400, 1600), (160, 130), 1.8, 0.95, 0.4),
    "liver_lesion": Tissue(38, 0.82, (1050, 1300), (105, 90), 1.2, 0.18),
    "spleen": Tissue(48, 0.80, (1050, 1300), (82, 66), 0.85, 0.55),
    "cortex": Tissue(33, 0.82, (950, 1150), (85, 76), 2.0, 1.05),
    "medulla": Tissue(30, 0.86, (1400, 1550), (95, 86), 1.9, 0.75),
    "pancreas": Tissue(42, 0.75, (600, 740), (48, 44), 1.4, 0.40),
    "wall": Tissue(42, 0.75, (900, 1150), (60, 52), 1.4, 0.35),
    "chyme": Tissue(18, 0.85, (1500, 1800), (180, 150), 1.8, 0.0),
    "urine": Tissue(5, 1.0, (4000, 4100), (1400, 1200), 2.9, 0.0),
    "gland": Tissue(32, 0.78, (1050, 1350), (70, 60), 1.7, 0.22),
    "carcinoma": Tissue(45, 0.82, (1200, 1500), (82, 72), 0.9, 0.75),
    "peripheral": Tissue(38, 0.92, (1600, 1850), (160, 140), 1.7, 0.28),
    "transition": Tissue(42, 0.82, (1250, 1500), (82, 74), 1.3, 0.35),
    "myometrium": Tissue(50, 0.82, (1050, 1350), (84, 74), 1.4, 0.60),
    "endometrium": Tissue(40, 0.92, (1400, 1700), (180, 160), 1.3, 0.2),
    "cyst": Tissue(8, 0.98, (2800, 3000), (600, 550), 2.7, 0.0),
    "disc": Tissue(85, 0.80, (1000, 1250), (72, 62), 1.2, 0.02),
    "thyroid": Tissue(105, 0.82, (1000, 1250), (82, 74), 1.6, 0.8),
    "mucosa": Tissue(35, 0.86, (900, 1100), (95, 85), 1.5, 0.65),
    "bile": Tissue(10, 0.98, (2200, 2500), (420, 380), 2.6, 0.0),
}
CODES: dict[str, int] = {name: code for code, name in enumerate(TISSUES)}
LIVER_TISSUES = ("liver", "liver_vessel", "liver_lesion")

BOXES: dict[str, tuple[Point, Point]] = {
    "brain": ((-67, -81, 750), (67, 94, 887)),
    "upper_head_neck": ((-60, -98, 682), (60, 60, 798)),
    "lower_head_neck": ((-60, -50, 578), (60, 80, 682)),
    "lung": ((-145, -82, 300), (145, 92, 583)),
    "breast": ((-150, -182, 376), (150, -95, 504)),
    "liver": ((-148, -90, 240), (82, 72, 412)),
    "kidney": ((-95, 12, 196), (95, 82, 330)),
    "intestine": ((-126, -75, -15), (126, 80, 388)),
    "pelvis": ((-140, -70, -30), (140, 105, 188)),
}
"""Where each coverage label's target lies in nominal coordinates, mm, lowest and highest corner."""


class Grid(NamedTuple):
    """A sampling grid: centre of voxel (0, 0, 0), steps to the next slice, row, column, LPS mm."""

    origin: npt.NDArray[np.float64]  # (3,)
    steps: npt.NDArray[np.float64]  # (3, 3): one row per axis of the array
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


@dataclass(frozen=True)
class Patient:
    """One digital patient: sex (F or M), age in years, scale of nominal coordinates.

    shapes: in painting order, tubes cut into straight pieces. bounds: (n, 2, 3), their boxes.
    """

    sex: str
    age: int
    scale: Point
    shapes: tuple[Shape, ...]
    bounds: npt.NDArray[np.float64]


def build_patient(rng: np.random.Generator, sex: str, age: int) -> Patient:
    """Draw a patient: size, fat, organ sizes and places, and pathologies differ."""
    small = 0.96 if sex == "F" else 1.02
    height = small * rng.uniform(0.95, 1.04)
    scale = (small * rng.uniform(0.93, 1.06), small * rng.uniform(0.93, 1.06), height)
    shapes = [
        *build_trunk(rng, sex),
        *build_head(rng),
        *build_neck(rng),
        *build_chest(rng),
        *build_abdomen(rng),
        *build_pelvis(rng, sex),
        *build_spine(rng),
        *build_vessels(),
    ]
    pieces: list[Shape] = []
    for shape in shapes:
        if isinstance(shape, Tube):
            ends = zip(shape.path[:-1], shape.path[1:], strict=True)
            pieces += [shape._replace(path=pair) for pair in ends]
        else:
            pieces.append(shape)
    bounds = np.array([_bound_shape(piece) for piece in pieces])
    return Patient(sex, age, scale, tuple(pieces), bounds)


def _bound_shape(shape: Shape) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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
    """Sample the patient on a grid: tissue code per voxel, (D, H, W) uint8, index into TISSUES."""
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
    """For x, y and z: what each array axis that changes it adds, shaped to broadcast."""
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
    pieces = []
    for axis, line in parts:
        pieces.append(line[tuple(block[a] if a == axis else slice(None) for a in range(3))])
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
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


def turn_axes(turn: Point) -> npt.NDArray[np.float64]:
    """Rows are the axes x, y, z turned about x, then y, then z by the given degrees."""
    axes = np.eye(3)
    for fixed, degrees in enumerate(turn):
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        a, b = [(1, 2), (2, 0), (0, 1)][fixed]
        rotation = np.eye(3)
        rotation[a, a], rotation[a, b], rotation[b, a], rotation[b, b] = cos, sin, -sin, cos
        axes = axes @ rotation
    return axes


def _mirror(shape: Blob | Tube) -> tuple[Blob | Tube, Blob | Tube]:
    if isinstance(shape, Tube):
        return shape, shape._replace(path=tuple((-x, y, z) for x, y, z in shape.path))
    (x, y, z), (a, b, c) = shape.center, shape.turn
    return shape, shape._replace(center=(-x, y, z), turn=(a, -b, -c))


def build_trunk(rng: np.random.Generator, sex: str) -> list[Shape]:
    """Skin, subcutaneous fat, muscle, fat of the belly, thighs, and breasts of a woman."""
    fat = rng.uniform(11, 24) + (5 if sex == "F" else 0)
    belly = rng.uniform(-5, 18)
    hip, shoulder = (8, -14) if sex == "F" else (0, 0)
    outer = (
        (-95, 8, 176 + hip, 112), (-40, 10, 182 + hip, 116), (60, 8, 180 + hip, 114),
        (150, 0, 168 + hip / 2, 108 + belly / 2), (230, -belly / 2, 156, 106 + belly),
        (320, -belly / 3, 164, 110 + belly / 2), (420, 0, 172, 114), (500, 4, 176, 110),
        (545, 10, 192 + shoulder, 98), (572, 18, 160 + shoulder, 78), (598, 20, 88, 64),
        (620, 18, 62, 58), (680, 14, 60, 62), (705, 4, 62, 78), (720, 2, 62, 84),
    )  # fmt: skip
    cavity = (
        (-38, 14, 16, 14), (-15, 6, 62, 42), (40, -2, 98, 66), (110, -8, 120, 76), (230, -10,
        134, 82), (330, -6, 140, 84), (400, 0, 130, 80),
    )  # fmt: skip
    thigh = ((92.0, 5.0, -60.0), (88.0, 5.0, -420.0))
    shapes: list[Shape] = []
    for tissue, inset in (("skin", 0.0), ("fat", 2.5), ("muscle", fat)):
        shapes += _mirror(Tube(tissue, thigh, 88 - inset))
        shapes.append(Trunk(tissue, outer if inset < 3 else outer[:10], inset))
    shapes.append(Trunk("muscle", ((572, 18, 150, 74), *outer[10:]), 8.0))
    shapes.append(Trunk("fat", cavity))
    if sex == "F":
        size, gland = rng.uniform(0.82, 1.0), rng.uniform(0.42, 0.68)
        for tissue, share in (("skin", 1.0), ("fat", 0.96)):
            shapes += _mirror(
                Blob(
                    tissue,
                    (84, -112, 440),
                    (62 * size * share, 68 * size * share, 62 * size * share),
                )
            )
        core = (62 * size * gland, 60 * size * gland, 58 * size * gland)
        shapes += _mirror(Blob("gland", (86, -128, 438), core, 2.0, (0, 0, 0), 0.25, 5.0, "fat"))
        shapes += _mirror(Blob("muscle", (70, -88, 450), (64, 13, 60), 2.5))
        if rng.random() < 0.6:
            spot = (
                float(rng.choice([-1, 1])) * rng.uniform(70, 100),
                rng.uniform(-150, -122),
                rng.uniform(420, 460),
            )
            radius = rng.uniform(6, 13)
            shapes.append(
                Blob("carcinoma", spot, (radius, radius, radius), 2.0, (0, 0, 0), 0.15, 3.0)
            )
    return shapes


def build_head(rng: np.random.Generator) -> list[Shape]:
    """Skull, brain, ventricles, face, sinuses, eyes; sometimes a tumour or white matter lesions."""
    shapes: list[Shape] = []
    for tissue, less in (("skin", 0.0), ("fat", 2.0), ("muscle", 6.5)):
        shapes.append(Blob(tissue, (0, 5, 806), (78 - less, 98 - less, 97 - less)))
        shapes.append(Blob(tissue, (0, -40, 738), (62 - less, 64 - less, 74 - less), 2.6))
        shapes.append(Blob(tissue, (0, -104, 750), (13 - less / 2, 16 - less, 20 - less)))
    shapes += _mirror(Blob("fat", (38, -75, 728), (18, 16, 32)))
    for tissue, less in (("bone", 0.0), ("marrow", 2.2), ("bone", 4.2), ("csf", 6.0)):
        shapes.append(Blob(tissue, (0, 7, 817), (73 - less, 93 - less, 76 - less), 2.2))
    shapes.append(Blob("bone", (0, -5, 749), (48, 42, 9), 3.0))
    shapes.append(Blob("bone", (0, -62, 728), (42, 30, 24), 3.0))
    shapes.append(Blob("marrow", (0, -58, 728), (30, 24, 20), 3.0))
    big = rng.uniform(0.97, 1.01)
    brain = (65.0 * big, 84.5 * big, 64.0 * big)
    shapes.append(Blob("grey", (0, 7, 822), brain, 2.25, (0, 0, 0), 0.035, 5.0))
    shapes.append(Blob("csf", (0, 7, 850), (1.6, 88, 46), 4.0, over="grey"))
    for side in (-1.0, 1.0):
        white = (side * 30, 7.0, 820.0)
        shapes.append(Blob("white", white, (27.5, 75, 53), 2.3, (0, 0, 0), 0.12, 4.5, "grey"))
        shapes.append(Blob("csf", (side * 52, -6, 806), (14, 22, 2.2), 2.0, (0, side * 12, 0)))
        for _ in range(16):
            turn = (rng.uniform(0, 360), rng.uniform(0, 360), 0.0)
            ray = rng.normal(size=3) * (1.0, 1.0, 1.0)
            x, y, z = ray / np.linalg.norm(ray) * (61, 80, 58)
            spot = (side * abs(float(x)), float(y) + 7, 824 + abs(float(z)))
            shapes.append(Blob("csf", spot, (14, 12, 1.6), 2.0, turn, 0.2, 4.0, "grey"))
    shapes.append(Blob("white", (0, 4, 832), (12, 36, 7)))
    wide = rng.uniform(0.8, 1.5)
    for shape in (
        Blob("basal", (17, -12, 817), (9, 18, 12)), Blob("basal", (11, 12, 815), (9, 13, 10)),
        Blob("csf", (9, -12, 828), (5 * wide, 26, 8)),
        Blob("csf", (17, 30, 820), (6 * wide, 18, 9), 2.0, (0, 0, -20)),
        Tube("csf", ((20, 28, 812), (34, 8, 795)), 3.2 * wide),
        Blob("white", (24, 52, 766), (25, 27, 22)),
        Blob("grey", (25, 52, 766), (24, 25, 20), 2.0, (0, 0, 0), 0.2, 3.0),
        Blob("white", (22, 50, 766), (13, 14, 11)),
    ):  # fmt: skip
        shapes += _mirror(shape)
    shapes += [
        Blob("csf", (0, 10, 812), (2.5 * wide, 14, 9)),
        Tube("white", ((0, 22, 792), (0, 24, 750)), 13.0),
        Blob("white", (0, 14, 770), (15, 13, 14)), Blob("csf", (0, 36, 768), (8, 5, 10)),
        Blob("mucosa", (0, -9, 762), (6, 5, 4)),
        Tube("vein", ((0, -68, 858), (0, -30, 883), (0, 20, 889), (0, 70, 862), (0, 92, 820)), 4.0),
        Tube("vein", ((0, 92, 815), (40, 70, 778), (52, 35, 762)), 3.6),
        Tube("vein", ((0, 92, 815), (-40, 70, 778), (-52, 35, 762)), 3.6),
        Tube("artery", ((0, 1, 778), (0, 0, 760)), 2.6),
        Tube("artery", ((14, -16, 783), (-14, -16, 783)), 2.0),
    ]  # fmt: skip
    for shape in (
        Tube("artery", ((14, -8, 760), (14, -14, 782), (34, -18, 788), (54, 0, 800)), 2.3),
        Tube("artery", ((4, -20, 786), (3, -46, 812), (2, -20, 846)), 1.8),
        Tube("artery", ((2, 2, 776), (20, 40, 792)), 1.8),
        Blob("fat", (31, -62, 768), (17, 25, 16)), Blob("vitreous", (32, -76, 768), (12, 12, 12)),
        Blob("muscle", (32, -87, 768), (5, 2, 5)),
        Tube("white", ((30, -64, 768), (16, -36, 770)), 2.2),
        Blob("gas", (25, -60, 733), (14, 17, 17), 2.5), Blob("gas", (13, -86, 793), (11, 5, 10)),
        Blob("gas", (52, 22, 748), (9, 14, 12), 2.0, (0, 0, 0), 0.4, 2.0),
        Blob("mucosa", (7, -66, 732), (3, 24, 9)),
        Blob("gland", (54, -6, 712), (13, 17, 24)),
        Tube("bone", ((50, -12, 738), (50, -20, 705), (40, -52, 690), (14, -92, 688), (0, -96,
            689)), 6.0),
        Tube("marrow", ((48, -24, 702), (40, -52, 690), (14, -92, 688)), 2.8),
        Tube("bone", ((32, -62, 712), (24, -84, 710), (0, -95, 710)), 4.2),
        Blob("muscle", (46, -36, 708), (6, 18, 24)),
    ):  # fmt: skip
        shapes += _mirror(shape)
    shapes += [
        Blob("gas", (0, -58, 735), (4, 32, 15)), Blob("gas", (0, -24, 752), (13, 12, 9)),
        Blob("gas", (0, -52, 764), (9, 20, 10), 2.0, (0, 0, 0), 0.3, 2.5),
        Blob("gas", (0, -27, 730), (11, 9, 14)), Blob("muscle", (0, -54, 702), (24, 34, 18)),
        Tube("mucosa", ((0, -16, 735), (0, -10, 690)), 13.0),
        Tube("gas", ((0, -24, 728), (0, -16, 690)), 8.0),
    ]  # fmt: skip
    if rng.random() < 0.4:
        spot = (
            float(rng.choice([-1, 1])) * rng.uniform(26, 42),
            rng.uniform(-40, 50),
            rng.uniform(812, 848),
        )
        core = rng.uniform(8, 15)
        for tissue, radius in (("edema", 1.9 * core), ("glioma", core), ("cyst", 0.5 * core)):
            shapes.append(
                Blob(tissue, spot, (radius, 1.2 * radius, radius), 2.0, (0, 0, 0), 0.12, 5.0)
            )
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(4, 14))):
            spot = (
                float(rng.choice([-1, 1])) * rng.uniform(20, 34),
                rng.uniform(-40, 55),
                rng.uniform(825, 852),
            )
            shapes.append(Blob("edema", spot, (2.6, 3.4, 2.6), over="white"))
    return shapes


def build_neck(rng: np.random.Generator) -> list[Shape]:
    """Airway, larynx, thyroid, muscles, planes of fat; sometimes a goitre or an enlarged node."""
    goitre = 1.0 if rng.random() < 0.7 else rng.uniform(1.3, 1.8)
    shapes: list[Shape] = []
    for shape in (
        Blob("fat", (34, 4, 645), (17, 24, 55)), Blob("fat", (40, 30, 650), (12, 12, 50)),
        Tube("muscle", ((50, 14, 712), (42, -6, 650), (20, -24, 590)), 9.0),
        Tube("muscle", ((16, 40, 720), (18, 44, 590)), 11.0),
        Blob("thyroid", (17, 0, 610), (9 * goitre, 11 * goitre, 22)),
        Blob("gland", (28, -42, 684), (10, 14, 10)),
    ):  # fmt: skip
        shapes += _mirror(shape)
    shapes += [
        Blob("disc", (0, -18, 640), (20, 16, 14), 2.5),
        Tube("mucosa", ((0, -10, 692), (0, -8, 625)), 11.0),
        Tube("bone", ((22, -10, 672), (14, -28, 668), (-14, -28, 668), (-22, -10, 672)), 2.6),
        Tube("disc", ((0, -6, 628), (0, 4, 580)), 10.5),
        Tube("wall", ((0, 16, 640), (0, 26, 560), (5, 34, 420)), 6.0),
    ]  # fmt: skip
    trachea = (
        (0.0, -14.0, 690.0),
        (0.0, -10.0, 655.0),
        (0.0, -9.0, 636.0),
        (0.0, -6.0, 625.0),
        (0.0, 4.0, 580.0),
    )
    shapes.append(Tube("gas", trachea, 7.5))
    if rng.random() < 0.3:
        shapes.append(
            Blob(
                "carcinoma",
                (rng.uniform(28, 38), rng.uniform(0, 16), rng.uniform(620, 690)),
                (10, 9, 13),
            )
        )
    return shapes


def build_chest(rng: np.random.Generator) -> list[Shape]:
    """Lungs with vessels, heart, ribs, clavicles, shoulders; sometimes nodules or an effusion."""
    deep = rng.uniform(0.96, 1.03)
    right, left = (-78.0, 6.0, 440.0), (80.0, 8.0, 442.0)
    shapes: list[Shape] = [
        Blob("lung", right, (65 * deep, 86 * deep, 141), 2.4, (0, 6, 0)),
        Blob("lung", left, (63 * deep, 85 * deep, 139), 2.4, (0, -6, 0)),
        Blob("fat", (0, -8, 480), (30, 66, 95), 2.5),
    ]  # fmt: skip
    for hilum, center in (((-34.0, 14.0, 462.0), right), ((36.0, 14.0, 464.0), left)):
        for _ in range(14):
            ray = rng.normal(size=3)
            ray *= rng.uniform(0.55, 0.85) / np.linalg.norm(ray)
            tip: Any = tuple(
                float(c + s * d) for c, s, d in zip(center, (60, 78, 120), ray, strict=True)
            )
            bend: Any = tuple(
                float(0.5 * (h + t) + rng.normal(0, 6)) for h, t in zip(hilum, tip, strict=True)
            )
            shapes.append(Tube("vein", (hilum, bend), 3.4, "lung"))
            shapes.append(Tube("vein", (bend, tip), 1.9, "lung"))
    heart = rng.uniform(0.92, 1.15)
    shapes += [
        Blob("fat", (20, -30, 418), (64 * heart, 52, 56), 2.3),
        Blob("heart", (22, -28, 420), (58 * heart, 46, 50), 2.1, (20, 0, 25)),
        Blob("vein", (-14, -26, 424), (24, 28, 32)),
        Blob("artery", (44, -26, 412), (21, 18, 28), 2.0, (20, 0, 25)),
        Blob("artery", (12, 14, 434), (26, 16, 22)),
        Tube("gas", ((0, 4, 582), (0, 14, 492)), 8.5),
        Tube("gas", ((0, 14, 492), (-38, 20, 462)), 6.5),
        Tube("gas", ((0, 14, 492), (42, 20, 466)), 6.0),
        Tube("bone", ((0, -70, 545), (0, -88, 480), (0, -92, 410)), 8.0),
        Tube("marrow", ((0, -70, 545), (0, -88, 480), (0, -92, 410)), 5.0),
    ]  # fmt: skip
    for number in range(11):
        turn = np.linspace(0.25, 2.75, 9)
        wide = 150 - 3.0 * max(0, 5 - number) ** 1.6
        path = tuple(
            (
                float(wide * np.sin(a)),
                float(4 + 95 * np.cos(a)),
                float(572 - 24 * number - 26 * (a - 0.25)),
            )
            for a in turn
        )
        for tissue, radius in (("bone", 5.0), ("marrow", 2.6)):
            shapes += _mirror(Tube(tissue, path[: 9 if number < 8 else 7], radius))
    for shape in (
        Tube("bone", ((12, -66, 552), (60, -52, 562), (128, -14, 566)), 6.5),
        Blob("bone", (100, 78, 510), (34, 5, 58), 2.5, (12, 0, -25)),
        Blob("bone", (150, 14, 540), (21, 21, 20)), Blob("marrow", (150, 14, 540), (18, 18, 17)),
    ):  # fmt: skip
        shapes += _mirror(shape)
    if rng.random() < 0.45:
        for _ in range(int(rng.integers(1, 4))):
            side, size = float(rng.choice([-1, 1])), rng.uniform(4, 14)
            spot = (side * rng.uniform(70, 110), rng.uniform(-40, 55), rng.uniform(400, 530))
            shapes.append(
                Blob("carcinoma", spot, (size, size, size), 2.0, (0, 0, 0), 0.2, 3.0, "lung")
            )
    if rng.random() < 0.2:
        shapes.append(Blob("cyst", (-85, 78, 350), (55, 30, 70), over="lung"))
    return shapes


def build_abdomen(rng: np.random.Generator) -> list[Shape]:
    """Liver, spleen, stomach, pancreas, kidneys, bowel; sometimes liver lesions or a renal cyst."""
    big = rng.uniform(0.93, 1.04)
    lobe = rng.uniform(0.85, 1.1)
    shapes: list[Shape] = []
    for shape in (
        Tube("muscle", ((34, 52, 285), (46, 40, 130), (70, 0, 20)), 17.0),
        Blob("muscle", (74, 78, 240), (34, 20, 90), 2.5),
    ):
        shapes += _mirror(shape)
    shapes += _draw_bowel(rng)
    for tissue, less in (("wall", 0), ("chyme", 4)):
        shapes.append(
            Blob(tissue, (62, -30, 338), (46 - less, 36 - less, 48 - less), 2.0, (0, 30, 0))
        )
    shapes += [
        Blob("gas", (62, -50, 348), (28, 14, 26), over="chyme"),
        Tube("pancreas", ((-26, -2, 268), (0, -8, 285), (45, 12, 300), (78, 32, 318)), 10.5),
        Tube("wall", ((-10, -20, 300), (-38, -2, 295), (-38, 8, 250), (0, 10, 235)), 11.0),
        Tube("chyme", ((-10, -20, 300), (-38, -2, 295), (-38, 8, 250), (0, 10, 235)), 7.0),
        Blob("spleen", (104, 38, 345), (30 * big, 46, 52 * rng.uniform(0.85, 1.25)), 2.2, (0, 15,
            0)),
        Blob("liver", (-72, -4, 326), (72 * big, 77 * big, 82 * big), 2.7, (0, 14, 0)),
        Blob("liver", (10, -44, 352), (68 * lobe, 36, 38), 2.3, (0, -14, 0)),
        Blob("fat", (-52, -34, 262), (26, 30, 26)),
        Blob("bile", (-56, -46, 268), (13, 17, 27), 2.0, (20, 0, 0)),
        Tube("liver_vessel", ((-20, 12, 300), (-32, 2, 322), (-62, 4, 330), (-92, 12, 322)), 5.0,
            "liver"), Tube("liver_vessel", ((-32, 2, 322), (-20, -30, 345), (20, -44, 352)), 3.6,
            "liver"),
        *(Tube("liver_vessel", ((-20, 24, 385), tip), 3.4, "liver") for tip in ((-110.0, 20.0,
            340.0), (-70.0, -40.0, 340.0), (-5.0, -50.0, 350.0))),
    ]  # fmt: skip
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 5))):
            spot, size = (
                (rng.uniform(-115, -40), rng.uniform(-45, 45), rng.uniform(275, 380)),
                rng.uniform(6, 18),
            )
            shapes.append(
                Blob("liver_lesion", spot, (size, size, size), 2.0, (0, 0, 0), 0.1, 4.0, "liver")
            )
    for side, up in ((-1.0, 258.0), (1.0, 268.0)):
        size, lean = rng.uniform(0.92, 1.08), (0.0, side * 12, 0.0)
        middle = (side * 64, 46.0, up)
        shapes += [
            Blob("fat", middle, (38, 36, 66)),
            Blob("cortex", middle, (27 * size, 25 * size, 55 * size), 2.2, lean),
            Blob("medulla", middle, (20 * size, 18 * size, 46 * size), 2.2, lean, 0.22, 4.0),
            Blob("fat", (side * 54, 40, up), (14, 13, 26)),
            Blob("urine", (side * 52, 40, up), (6, 6, 14)),
            Tube("urine", ((side * 48, 40, up - 8), (side * 36, 30, 170), (side * 44, 30, 60),
                (side * 16, 12, 28)), 2.0),
        ]  # fmt: skip
    if rng.random() < 0.4:
        size = rng.uniform(8, 22)
        shapes.append(
            Blob(
                "cyst",
                (float(rng.choice([-1, 1])) * 84, 52, rng.uniform(225, 300)),
                (size, size, size),
            )
        )
    return shapes


def _draw_bowel(rng: np.random.Generator) -> list[Shape]:
    colon = (
        (-100.0, 4.0, 92.0), (-112.0, 14.0, 170.0), (-106.0, 0.0, 232.0), (-60.0, -56.0, 214.0),
        (0.0, -62.0, 200.0), (70.0, -52.0, 225.0),
        (112.0, 8.0, 285.0), (114.0, 30.0, 190.0), (104.0, 20.0, 100.0), (60.0, 10.0, 66.0),
        (24.0, 34.0, 96.0), (0.0, 62.0, 62.0), (0.0, 62.0, -12.0),
    )  # fmt: skip
    path = [
        (x + rng.normal(0, 3), y + rng.normal(0, 3), z + rng.normal(0, 4)) for x, y, z in colon[:-2]
    ]
    bends = tuple((float(x), float(y), float(z)) for x, y, z in path) + colon[-2:]
    shapes: list[Shape] = [Tube("wall", bends, 17.0), Tube("chyme", bends, 14.0)]
    for x, y, z in bends[1:-2]:
        if rng.random() < 0.7:
            shapes.append(Blob("gas", (x, y - 5, z), (9, 8, 20), over="chyme"))
    for row in range(10):
        front, up = (-46, 90 + 26 * (row // 2)) if row % 2 else (-8, 76 + 26 * (row // 2))
        loops = [(-78 + 26 * i, front + rng.uniform(-9, 9), up + 11 * (-1) ** i) for i in range(7)]
        loop = tuple((float(x), float(y), float(z)) for x, y, z in loops)
        shapes += [Tube("wall", loop, 11.5), Tube("chyme", loop, 7.5)]
    return shapes


def build_pelvis(rng: np.random.Generator, sex: str) -> list[Shape]:
    """Pelvic bones, hips, gluteal planes, bladder, and prostate or uterus with its pathology."""
    shapes: list[Shape] = []
    for less, tissue in ((0.0, "bone"), (3.0, "marrow")):
        for shape in (
            Blob(tissue, (92, 32, 128), (10 - less, 56 - less, 56 - less), 2.3, (0, 18, 35)),
            Blob(tissue, (70, 20, 45), (14 - less, 30 - less, 44 - less), 2.0, (0, 20, 0)),
            Tube(tissue, ((10, -46, 2), (45, -34, 14), (78, -12, 30)), 9 - less),
            Tube(tissue, ((12, -44, -6), (40, -6, -38), (62, 36, -26), (74, 34, 20)), 10 - less),
            Blob(tissue, (96, 2, 22), (25 - less, 25 - less, 25 - less)),
            Tube(tissue, ((100, 4, 18), (132, 10, -14)), 15 - less),
            Tube(tissue, ((136, 10, 0), (130, 10, -60), (100, 5, -420)), 16 - less),
            Blob(tissue, (0, 76, 112), (46 - less, 20 - less, 56 - less), 2.3, (-20, 0, 0)),
        ):  # fmt: skip
            shapes += _mirror(shape)
    for shape in (
        Tube("fat", ((50, 80, 60), (110, 66, 70)), 5.0),
        Tube("fat", ((60, 70, 0), (120, 50, 0)), 5.0),
        Tube("fat", ((85, -40, 10), (75, -50, -90)), 8.0),
    ):
        shapes += _mirror(shape)
    full = rng.uniform(0.6, 1.15)
    for tissue, less in (("wall", 0), ("urine", 3)):
        shapes.append(
            Blob(tissue, (0, -22, 46), (40 * full - less, 32 * full - less, 30 * full - less), 2.3)
        )
    if sex == "M":
        size = rng.uniform(0.85, 1.45)
        shapes += [
            Blob("peripheral", (0, 22, 4), (25 * size, 17 * size, 20)),
            Blob("transition", (0, 15, 8), (18 * size, 13 * size, 17), 2.0, (0, 0, 0), 0.1, 4.0),
            Tube("urine", ((0, 10, 24), (0, 16, -14)), 1.8),
        ]  # fmt: skip
        shapes += _mirror(Blob("peripheral", (16, 34, 28), (16, 6, 7), 2.0, (0, 0, 0), 0.3, 3.0))
        if rng.random() < 0.4:
            shapes.append(
                Blob(
                    "carcinoma",
                    (rng.uniform(-15, 15), 31, rng.uniform(-4, 8)),
                    (6, 4, 6),
                    over="peripheral",
                )
            )
    else:
        lean = rng.uniform(20, 50)
        for tissue, less in (("myometrium", 0), ("endometrium", 17)):
            shapes.append(
                Blob(tissue, (0, 14, 78), (30 - less, 26 - less, 40 - less), 2.2, (lean, 0, 0))
            )
        shapes += [
            Tube("myometrium", ((0, 22, 50), (0, 30, 22)), 12.0),
            Tube("wall", ((0, 30, 20), (0, 22, -28)), 9.0),
        ]
        shapes += _mirror(Blob("cyst", (48, 16, 78), (11, 11, 11)))
        if rng.random() < 0.4:
            size = rng.uniform(9, 20)
            shapes.append(Blob("transition", (rng.uniform(-16, 16), 0, 88), (size, size, size)))
    return shapes


def build_spine(rng: np.random.Generator) -> list[Shape]:
    """Vertebrae from C1 to the sacrum with discs, processes, spinal canal and cord, on a curve."""
    bend = rng.uniform(-4, 4)

    def curve(z: float) -> Point:
        back = np.interp(
            z, (120, 160, 230, 340, 450, 560, 600, 680, 745), (66, 48, 38, 50, 62, 48, 36, 24, 16)
        )
        return bend * float(np.sin(z / 110)), float(back), z

    shapes: list[Shape] = []
    levels = np.concatenate(
        [np.arange(165, 340, 33.0), np.arange(352, 590, 20.5), np.arange(600, 732, 18.5)]
    )
    steps = np.diff(levels, append=levels[-1] + 18.5)
    canal = tuple(curve(float(z)) for z in np.arange(110, 760, 18.0))
    for z, step in zip(levels, steps, strict=True):
        x, y, _ = curve(float(z))
        wide = float(np.interp(z, (165, 340, 580, 730), (25, 19, 15, 12)))
        deep = 0.72 * wide
        shapes.append(
            Blob("disc", (x, y, z + step / 2), (wide * 0.95, deep * 0.95, 0.2 * step), 4.0)
        )
        for tissue, less in (("bone", 0.0), ("marrow", 1.6)):
            shapes.append(
                Blob(tissue, (x, y, z), (wide - less, deep - less, 0.39 * step - less), 4.0)
            )
            shapes.append(
                Blob(
                    tissue,
                    (x, y + deep + 9, z),
                    (wide * 0.85 - less, 11 - less, 0.3 * step - less),
                    2.5,
                )
            )
            shapes.append(
                Tube(tissue, ((x, y + deep + 12, z), (x, y + deep + 30, z - 8)), 4.5 - less)
            )
            shapes.append(
                Tube(
                    tissue,
                    ((x - wide - 9, y + deep + 5, z), (x + wide + 9, y + deep + 5, z)),
                    4.5 - less,
                )
            )
    offsets = np.interp([z for _, _, z in canal], (165, 340, 580, 760), (25, 21, 17, 14))
    back = tuple((x, y + float(o), z) for (x, y, z), o in zip(canal, offsets, strict=True))
    shapes += [Tube("fat", back, 9.5), Tube("csf", back, 8.0), Tube("white", back[14:], 4.8)]
    return shapes


def build_vessels() -> list[Shape]:
    """Aorta, great arteries and veins from the neck to the thighs."""
    shapes: list[Shape] = [
        Tube("artery", ((8, -14, 445), (-8, -18, 480), (-4, -6, 512), (14, 20, 516), (24, 38,
            490)), 13.5),
        Tube("artery", ((24, 38, 490), (22, 40, 420), (10, 26, 330), (4, 8, 240), (2, 12, 165)),
            10.5),
        Tube("artery", ((5, 4, 300), (2, -14, 292), (-20, -10, 300)), 3.6),
        Tube("artery", ((4, 2, 275), (2, -26, 240), (0, -30, 150)), 3.4),
        Tube("artery", ((-20, -22, 470), (0, -22, 474), (42, 8, 468)), 9.5),
        Tube("artery", ((0, -14, 470), (-40, 8, 464)), 8.5),
        Tube("vein", ((-22, -4, 550), (-22, -12, 450)), 8.5),
        Tube("vein", ((40, -14, 560), (-22, -8, 542)), 6.0),
        Tube("vein", ((-20, 6, 440), (-22, 14, 390), (-22, 12, 240), (-18, 18, 165)), 10.5),
        Tube("vein", ((-20, 8, 300), (-8, -14, 270), (-8, -24, 200)), 5.5),
    ]  # fmt: skip
    for shape in (
        Tube("artery", ((2, 12, 168), (34, 22, 130), (58, -8, 60), (78, -52, 10), (76, -44, -90),
            (72, -20, -420)), 5.5),
        Tube("vein", ((-4, 18, 168), (40, 30, 128), (52, 4, 58), (66, -46, 8), (66, -34, -90),
            (64, -12, -420)), 6.0),
        Tube("artery", ((8, -2, 520), (22, 6, 590), (26, 6, 660), (24, -2, 738)), 3.6),
        Tube("vein", ((18, -14, 555), (32, 2, 600), (34, 8, 660), (36, 10, 740)), 5.2),
        Tube("artery", ((4, 12, 262), (46, 38, 262)), 2.8),
        Tube("vein", ((-14, 12, 262), (46, 36, 264)), 4.0),
        Tube("artery", ((20, 4, 540), (70, -10, 566), (140, -8, 556)), 4.0),
    ):  # fmt: skip
        shapes += _mirror(shape)
    return shapes


class Scan(NamedTuple):
    """MR timing: family SE, IR, GR or EP; TR, TE, TI in ms; flip angle in degrees; b in s/mm2."""

    family: str
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0
    b: float = 0.0
    fat_sat: bool = False


def simulate_ct(labels: Labels, agent: float, noise: float, rng: np.random.Generator) -> Array:
    """CT numbers in HU of tissue codes, with iodine (`agent` 1: venous phase) and `noise` HU."""
    table = np.array([t.hu + 150 * agent * t.uptake for t in TISSUES.values()], np.float32)
    image = table[labels]
    image += 1.9 * noise * rng.standard_normal(image.shape, np.float32)
    return np.maximum(_blur(image), np.float32(-1024))


def relax_signal(scan: Scan, tesla: float, agent: float) -> Array:
    """Signal of every tissue by the sequence's equation, water being 1; shape (tissues,).

    `agent` scales the uptake; relaxivities 4.5 and 5.5 /s/mM at 0.9 mM in blood shorten T1 and T2.
    Haacke et al., Magnetic Resonance Imaging, chapters 8 (spin echo, inversion), 18 (spoiled).
    """
    high = int(tesla > 2)
    signals = []
    for name, tissue in TISSUES.items():
        dose = 0.9 * agent * tissue.uptake
        t1 = 1 / (1 / tissue.t1[high] + 4.5e-3 * dose)
        t2 = 1 / (1 / tissue.t2[high] + 5.5e-3 * dose)
        if scan.family in ("GR", "EP"):
            t2 = 0.6 * t2 if scan.family == "GR" else 0.9 * t2
        e1, e2 = np.exp(-scan.tr / t1), np.exp(-scan.te / t2)
        if scan.family == "GR":
            turn = np.radians(scan.flip)
            signal = np.sin(turn) * (1 - e1) / (1 - np.cos(turn) * e1)
            if scan.tr > 15:  # time of flight: fresh blood flows in unsaturated
                signal = max(signal, 0.75 * tissue.flow * np.sin(turn))
        elif scan.family == "IR" or scan.ti:
            signal = abs(1 - 2 * np.exp(-scan.ti / t1) + e1)
        else:
            signal = 1 - e1
        if scan.family in ("SE", "IR"):
            signal *= 1 - 0.75 * tissue.flow  # blood leaves the slice between the pulses
        if scan.fat_sat and name == "fat":
            signal *= 0.1
        signals.append(tissue.pd * signal * e2 * np.exp(-scan.b * tissue.adc * 1e-3))
    return np.array(signals, np.float32)


def simulate_mr(
    labels: Labels, scan: Scan, tesla: float, agent: float, rng: np.random.Generator
) -> Array:
    """MR magnitude of tissue codes: equation, coil bias, Rician noise; brightest 1 % near 1000."""
    image = _blur(relax_signal(scan, tesla, agent)[labels])
    bias: Array = np.ones((1, 1, 1), np.float32)
    for axis, length in enumerate(labels.shape):
        place = np.linspace(-1, 1, length).reshape([-1 if a == axis else 1 for a in range(3)])
        bias = bias * (
            1 + rng.uniform(-0.12, 0.12) * place + rng.uniform(-0.1, 0.05) * place**2
        ).astype(np.float32)
    image *= bias
    top = float(np.percentile(image[::3, ::3, ::3], 99))
    image *= 1000 / max(top, 1e-6)
    noise = np.float32(rng.uniform(10, 28))
    real = image + noise * rng.standard_normal(image.shape, np.float32)
    imaginary = noise * rng.standard_normal(image.shape, np.float32)
    magnitude: Array = np.minimum(np.hypot(real, imaginary), np.float32(3900))
    return magnitude


def map_diffusion(labels: Labels, rng: np.random.Generator) -> Array:
    """Apparent diffusion coefficient of tissue codes in 1e-6 mm2/s, with noise."""
    table = np.array([1000 * t.adc if t.pd > 0.3 else 0 for t in TISSUES.values()], np.float32)
    image = _blur(table[labels])
    noisy: Array = np.clip(
        image * (1 + 0.06 * rng.standard_normal(image.shape, np.float32)), 0, 4000
    )
    return noisy


def _blur(image: Array) -> Array:
    """The scanner's point spread in the slice: (1, 2, 1) / 4 along rows and columns."""
    for axis in (1, 2):
        a = np.swapaxes(image, 1, axis)
        soft = a.copy()
        soft[:, 1:-1] = 0.5 * a[:, 1:-1] + 0.25 * (a[:, :-2] + a[:, 2:])
        image = np.swapaxes(soft, 1, axis)
    return np.ascontiguousarray(image)
