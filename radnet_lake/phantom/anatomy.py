"""Takes sex, age and a random generator, gives a digital patient with random organs.

Organs are rows of tables. A row is tissues (outer first, each inner one with its inset in mm), then
one or more shapes separated by "|", in nominal LPS mm (see shape.py). A blob is center and radii;
`tube=5` is a tube of radius 5 through any number of points. Options:

p=2.5 power, turn=a,b,c degrees, fold=share:mm surface folds, in=tissue paint only over that,
both paint the mirror image too, side one side at random, by=name scale by a patient's VARIATION,
odds=.4 probability, n=1~4 number, F or M that sex only. `a~b` is a uniform random number.
"""

from collections.abc import Iterator

import numpy as np

from radnet_lake.phantom.shape import (
    Blob,
    Patient,
    Point,
    Shape,
    Trunk,
    Tube,
    assemble_patient,
    mirror_shape,
)

VARIATION: dict[str, tuple[float, float]] = {
    "brain": (0.97, 1.01), "ventricle": (0.8, 1.5), "thyroid": (0.9, 1.6), "lung": (0.96, 1.03),
    "heart": (0.92, 1.1), "liver": (0.93, 1.04), "lobe": (0.85, 1.1), "spleen": (0.85, 1.2),
    "kidney": (0.92, 1.08), "bladder": (0.6, 1.15), "prostate": (0.85, 1.45), "breast": (0.82, 1.0),
    "gland": (0.36, 0.68),
}  # fmt: skip

BREAST = """
skin/fat:2.5 both F by=breast 84,-112,440 62,68,62
gland both F by=gland in=fat 86,-128,438 62,60,58 fold=.25:5
muscle both F 70,-88,450 64,13,60 p=2.5
carcinoma side F odds=.6 70~100,-150~-122,420~460 6~13,6~13,6~13 fold=.15:3
"""
HEAD = """
skin/fat:2/muscle:6.5 0,5,806 78,98,97 | 0,-40,738 62,64,74 p=2.6 | 0,-104,750 13,16,20
fat both 38,-75,728 18,16,32
bone/marrow:2.2/bone:4.2/csf:6 0,7,817 73,93,76 p=2.2
bone 0,-5,749 48,42,9 p=3
bone/marrow:6 0,-60,728 42,30,24 p=3
grey by=brain 0,7,822 65,84.5,64 p=2.25 fold=.035:5
csf in=grey 0,7,850 1.6,88,46 p=4
white both in=grey 30,7,820 27.5,75,53 p=2.3 fold=.12:4.5
csf both 52,-6,806 14,22,2.2 turn=0,12,0
csf side in=grey n=44 4~56,-75~88,838~884 14,12,1.6 turn=0~360,0~360,0 fold=.2:4
white 0,4,832 12,36,7
basal both 17,-12,817 9,18,12 | 11,12,815 9,13,10
csf both by=ventricle 9,-12,828 5,26,8 | 17,30,820 6,18,9 turn=0,0,-20
csf both by=ventricle tube=3.2 20,28,812 34,8,795
white both 24,52,766 25,27,22
grey both 25,52,766 24,25,20 fold=.2:3
white both 22,50,766 13,14,11
csf by=ventricle 0,10,812 2.5,14,9
white tube=13 0,22,792 0,24,750
white 0,14,770 15,13,14
csf 0,36,768 8,5,10
mucosa 0,-9,762 6,5,4
vein tube=4 0,-68,858 0,-30,883 0,20,889 0,70,862 0,92,820
vein both tube=3.6 0,92,815 40,70,778 52,35,762
artery tube=2.6 0,1,778 0,0,760 | 14,-16,783 -14,-16,783
artery both tube=2.3 14,-8,760 14,-14,782 34,-18,788 54,0,800
artery both tube=1.8 4,-20,786 3,-46,812 2,-20,846 | 2,2,776 20,40,792
fat both 31,-62,768 17,25,16
vitreous both 32,-76,768 12,12,12
muscle both 32,-87,768 5,2,5
white both tube=2.2 30,-64,768 16,-36,770
gas both 25,-60,733 14,17,17 p=2.5 | 13,-86,793 11,5,10 | 52,22,748 9,14,12 fold=.4:2
mucosa both 7,-66,732 3,24,9
gland both 54,-6,712 13,17,24
bone/marrow:3.2 both tube=6 50,-12,738 50,-20,705 40,-52,690 14,-92,688 0,-96,689
bone both tube=4.2 32,-62,712 24,-84,710 0,-95,710
muscle both 46,-36,708 6,18,24
gas 0,-58,735 4,32,15 | 0,-24,752 13,12,9 | 0,-52,764 9,20,10 fold=.3:2.5 | 0,-27,730 11,9,14
muscle 0,-54,702 24,34,18
mucosa/gas:5 tube=13 0,-20,732 0,-13,690
edema/glioma:9/cyst:14 side odds=.4 26~42,-40~50,812~848 17~28,20~32,17~28 fold=.12:5
edema side in=white odds=.5 n=4~14 20~34,-40~55,825~852 2.6,3.4,2.6
"""
NECK = """
fat both 34,4,645 17,24,55 | 40,30,650 12,12,50
muscle both tube=9 50,14,712 42,-6,650 20,-24,590
muscle both tube=11 16,40,720 18,44,590
thyroid both by=thyroid 17,0,610 9,11,20
gland both 28,-42,684 10,14,10
disc 0,-18,640 20,16,14 p=2.5
mucosa tube=11 0,-10,692 0,-8,625
bone tube=2.6 22,-10,672 14,-28,668 -14,-28,668 -22,-10,672
disc tube=10.5 0,-6,628 0,4,580
wall tube=6 0,16,640 0,26,560 5,34,420
gas tube=7.5 0,-14,690 0,-10,655 0,-9,636 0,-6,625 0,4,580
carcinoma side odds=.3 28~38,0~16,620~690 10,9,13
"""
CHEST = """
lung by=lung -78,6,440 65,86,141 p=2.4 turn=0,6,0 | 80,8,442 63,85,139 p=2.4 turn=0,-6,0
fat 0,-8,480 30,66,95 p=2.5
vein side in=lung tube=2.2 n=34 34,14,462 44~70,-20~40,420~500 60~135,-60~80,330~540
fat by=heart 20,-30,418 64,52,56 p=2.3
heart by=heart 22,-28,420 58,46,50 p=2.1 turn=20,0,25
vein -14,-26,424 24,28,32
artery 44,-26,412 21,18,28 turn=20,0,25 | 12,14,434 26,16,22
gas tube=8.5 0,4,582 0,14,492
gas tube=6.3 -38,20,462 0,14,492 42,20,466
bone/marrow:3 tube=8 0,-70,545 0,-88,480 0,-92,410
bone both tube=6.5 12,-66,552 60,-52,562 128,-14,566
bone both 100,78,510 34,5,58 p=2.5 turn=12,0,-25
bone/marrow:3 both 150,14,540 21,21,20
carcinoma side in=lung odds=.45 n=1~4 70~110,-40~55,400~530 4~14,4~14,4~14 fold=.2:3
cyst in=lung odds=.2 -85,78,350 55,30,70
"""
ABDOMEN = """
muscle both tube=17 34,52,285 46,40,130 70,0,20
muscle both 74,78,240 34,20,90 p=2.5
wall/chyme:3 tube=17 -100,4,92 -112,14,170 -106,0,232 -60,-56,214 0,-62~-52,200 70,-52,225 \
112,8,285 114,30,190 104,20,100 60,0~20,66 24,34,96 0,62,62 0,62,-12
wall/chyme:4 tube=11.5 n=5 -78,-8,78~180 -52,-17~1,96~200 -26,-8,78~180 0,-17~1,96~200 \
26,-8,78~180 52,-17~1,96~200 78,-8,78~180
wall/chyme:4 tube=11.5 n=5 -78,-46,88~190 -52,-55~-37,106~210 -26,-46,88~190 0,-55~-37,106~210 \
26,-46,88~190 52,-55~-37,106~210 78,-46,88~190
gas in=chyme n=8~14 -115~115,-60~20,80~290 12,10,20
wall/chyme:4 62,-30,338 46,36,48 turn=0,30,0
gas in=chyme 62,-50,348 28,14,26
pancreas tube=10.5 -26,-2,268 0,-8,285 45,12,300 78,32,318
wall/chyme:4 tube=11 -10,-20,300 -38,-2,295 -38,8,250 0,10,235
spleen by=spleen 104,38,345 30,46,52 p=2.2 turn=0,15,0
liver by=liver -72,-4,326 72,77,82 p=2.7 turn=0,14,0
liver by=lobe 10,-44,352 68,36,38 p=2.3 turn=0,-14,0
fat -52,-34,262 26,30,26
bile -56,-46,268 13,17,27 turn=20,0,0
liver_vessel in=liver tube=5 -20,12,300 -32,2,322 -62,4,330 -92,12,322
liver_vessel in=liver tube=3.6 -32,2,322 -20,-30,345 20,-44,352 | -20,24,385 -110,20,340 \
| -20,24,385 -70,-40,340 | -20,24,385 -5,-50,350
liver_lesion in=liver odds=.5 n=1~5 -115~-40,-45~45,275~380 6~18,6~18,6~18 fold=.1:4
fat both 64,46,263 38,36,66
cortex both by=kidney 64,46,263 27,25,55 p=2.2 turn=0,12,0
medulla both by=kidney 64,46,263 20,18,46 p=2.2 turn=0,12,0 fold=.22:4
fat both 54,40,263 14,13,26
urine both 52,40,263 6,6,14
urine both tube=2 48,40,255 36,30,170 44,30,60 16,12,28
cyst side odds=.4 84,52,225~300 8~22,8~22,8~22
"""
PELVIS = """
bone/marrow:3 both 92,32,128 10,56,56 p=2.3 turn=0,18,35 | 70,20,45 14,30,44 turn=0,20,0 \
| tube=9 10,-46,2 45,-34,14 78,-12,30 | tube=10 12,-44,-6 40,-6,-38 62,36,-26 74,34,20 \
| 96,2,22 25,25,25 | tube=15 100,4,18 132,10,-14 | tube=16 136,10,0 130,10,-60 100,5,-420 \
| 0,76,112 46,20,56 p=2.3 turn=-20,0,0
fat both tube=5 50,80,60 110,66,70 | 60,70,0 120,50,0
fat both tube=8 85,-40,10 75,-50,-90
wall/urine:3 by=bladder 0,-22,46 40,32,30 p=2.3
peripheral M by=prostate 0,22,4 25,17,18
transition M by=prostate 0,15,8 18,13,15 fold=.1:4
urine M tube=1.8 0,10,24 0,16,-14
peripheral both M 16,34,28 16,6,7 fold=.3:3
carcinoma side in=peripheral M odds=.4 0~15,31,-4~8 6,4,6
myometrium/endometrium:17 F 0,14,78 30,26,40 p=2.2 turn=20~50,0,0
myometrium F tube=12 0,22,50 0,30,22
wall F tube=9 0,30,20 0,22,-28
cyst both F 48,16,78 11,11,11
transition side F odds=.4 0~16,0,88 9~20,9~20,9~20
"""
VESSELS = """
artery tube=13.5 8,-14,445 -8,-18,480 -4,-6,512 14,20,516 24,38,490
artery tube=10.5 24,38,490 22,40,420 10,26,330 4,8,240 2,12,165
artery tube=3.6 5,4,300 2,-14,292 -20,-10,300 | 4,2,275 2,-26,240 0,-30,150
artery tube=9 -20,-22,470 0,-22,474 42,8,468 | 0,-14,470 -40,8,464
vein tube=8.5 -22,-4,550 -22,-12,450
vein tube=6 40,-14,560 -22,-8,542
vein tube=10.5 -20,6,440 -22,14,390 -22,12,240 -18,18,165
vein tube=5.5 -20,8,300 -8,-14,270 -8,-24,200
artery both tube=5.5 2,12,168 34,22,130 58,-8,60 78,-52,10 76,-44,-90 72,-20,-420
vein both tube=6 -4,18,168 40,30,128 52,4,58 66,-46,8 66,-34,-90 64,-12,-420
artery both tube=3.6 8,-2,520 22,6,590 26,6,660 24,-2,738
vein both tube=5.2 18,-14,555 32,2,600 34,8,660 36,10,740
artery both tube=2.8 4,12,262 46,38,262
vein both tube=4 -14,12,262 46,36,264
artery both tube=4 20,4,540 70,-10,566 140,-8,556
"""


def build_patient(rng: np.random.Generator, sex: str, age: int) -> Patient:
    """Draw a patient: body size, fat, sizes and positions of organs, pathologies."""
    small = 0.96 if sex == "F" else 1.02
    height = small * rng.uniform(0.95, 1.04)
    scale = (small * rng.uniform(0.93, 1.06), small * rng.uniform(0.93, 1.06), height)
    sizes = {name: float(rng.uniform(*span)) for name, span in VARIATION.items()}
    shapes = [*build_trunk(rng, sex)]
    for rows in (BREAST, HEAD, NECK, CHEST, ABDOMEN, PELVIS):
        shapes += place_organs(rows, rng, sex, sizes)
    shapes += [*build_ribs(), *build_spine(float(rng.uniform(-4, 4)))]
    shapes += place_organs(VESSELS, rng, sex, sizes)
    return assemble_patient(sex, age, scale, shapes)


def place_organs(
    rows: str, rng: np.random.Generator, sex: str, sizes: dict[str, float]
) -> Iterator[Shape]:
    """Rows of a table -> the shapes of this patient, in painting order."""
    for row in rows.strip().splitlines():
        layers, _, rest = row.partition(" ")
        parts = [part.split() for part in rest.split("|")]
        flags = set(parts[0])
        options = dict(word.split("=") for word in parts[0] if "=" in word)
        other = flags & {"F", "M"}
        if (other and sex not in other) or rng.random() >= float(options.get("odds", 1)):
            continue
        for _ in range(int(_draw(options.get("n", "1"), rng))):
            size = sizes.get(options.get("by", ""), 1.0)
            shapes = [_read_shape(part, options, size, rng) for part in parts]
            if "side" in flags and rng.random() < 0.5:
                shapes = [mirror_shape(shape) for shape in shapes]
            if "both" in flags:
                shapes += [mirror_shape(shape) for shape in shapes]
            for layer in layers.split("/"):
                tissue, _, inset = layer.partition(":")
                yield from (_inset_shape(shape, tissue, float(inset or 0)) for shape in shapes)


def _draw(text: str, rng: np.random.Generator) -> float:
    low, _, high = text.partition("~")
    return float(rng.uniform(float(low), float(high))) if high else float(low)


def _read_shape(
    words: list[str], row: dict[str, str], size: float, rng: np.random.Generator
) -> Blob | Tube:
    own = dict(word.split("=") for word in words if "=" in word)

    def read(text: str) -> Point:
        x, y, z = (_draw(number, rng) for number in text.split(","))
        return x, y, z

    points = tuple(read(word) for word in words if "," in word and "=" not in word)
    over, radius = row.get("in", ""), own.get("tube") or row.get("tube")
    if radius:
        return Tube("", points, size * float(radius), over)
    center, (a, b, c) = points
    ripple, _, wave = own.get("fold", "0:7").partition(":")
    power, turn = float(own.get("p", 2)), read(own.get("turn", "0,0,0"))
    radii = (size * a, size * b, size * c)
    return Blob("", center, radii, power, turn, float(ripple), float(wave), over)


def _inset_shape(shape: Blob | Tube, tissue: str, inset: float) -> Blob | Tube:
    if isinstance(shape, Tube):
        return shape._replace(tissue=tissue, radius=shape.radius - inset)
    a, b, c = shape.radii
    return shape._replace(tissue=tissue, radii=(a - inset, b - inset, c - inset))


def build_trunk(rng: np.random.Generator, sex: str) -> Iterator[Shape]:
    """Sex -> skin, subcutaneous fat, muscle, abdominal fat and thighs, of random thickness."""
    fat = float(rng.uniform(11, 24)) + (5 if sex == "F" else 0)
    belly = float(rng.uniform(-5, 18))
    hip, shoulder = (8, -14) if sex == "F" else (0, 0)
    outer = (
        (-95, 8, 176 + hip, 112), (-40, 10, 182 + hip, 116), (60, 8, 180 + hip, 114),
        (150, 0, 168 + hip / 2, 108 + belly / 2), (230, -belly / 2, 156, 106 + belly),
        (320, -belly / 3, 164, 110 + belly / 2), (420, 0, 172, 114), (500, 4, 176, 110),
        (545, 10, 192 + shoulder, 98), (572, 18, 160 + shoulder, 78), (598, 20, 88, 64),
        (620, 18, 62, 58), (680, 14, 60, 62), (705, 4, 62, 78), (720, 2, 62, 84),
    )  # fmt: skip
    for tissue, inset in (("skin", 0.0), ("fat", 2.5), ("muscle", fat)):
        thigh = Tube(tissue, ((92, 5, -60), (88, 5, -420)), 88 - inset)
        yield from (thigh, mirror_shape(thigh))
        yield Trunk(tissue, outer if inset < 3 else outer[:10], inset)
    yield Trunk("muscle", ((572, 18, 150, 74), *outer[10:]), 8.0)
    cavity = (
        (-38, 14, 16, 14), (-15, 6, 62, 42), (40, -2, 98, 66), (110, -8, 120, 76),
        (230, -10, 134, 82), (330, -6, 140, 84), (400, 0, 130, 80),
    )  # fmt: skip
    yield Trunk("fat", cavity)


def build_ribs() -> Iterator[Shape]:
    """Yield eleven pairs of ribs on the trunk's ellipses, lower at the front."""
    for number in range(11):
        wide = 150 - 3.0 * max(0, 5 - number) ** 1.6
        turns = np.linspace(0.25, 2.75 if number < 8 else 2.125, 9)
        x, y = wide * np.sin(turns), 4 + 95 * np.cos(turns)
        z = 572 - 24 * number - 26 * (turns - 0.25)
        path = tuple(zip(x.tolist(), y.tolist(), z.tolist(), strict=True))
        for tissue, radius in (("bone", 5.0), ("marrow", 2.6)):
            rib = Tube(tissue, path, radius)
            yield from (rib, mirror_shape(rib))


def build_spine(bend: float) -> Iterator[Shape]:
    """Lateral bend in mm -> vertebrae from L5 to C2 with discs, processes, canal and cord."""
    heights = (120, 160, 230, 340, 450, 560, 600, 680, 745)
    depths = (66, 48, 38, 50, 62, 48, 36, 24, 16)

    def curve(z: float) -> Point:
        return bend * float(np.sin(z / 110)), float(np.interp(z, heights, depths)), z

    levels = [*np.arange(165, 340, 33.0), *np.arange(352, 590, 20.5), *np.arange(600, 732, 18.5)]
    for z, step in zip(levels, np.diff([*levels, levels[-1] + 18.5]).tolist(), strict=True):
        x, y, z = curve(float(z))
        wide = float(np.interp(z, (165, 340, 580, 730), (25, 19, 15, 12)))
        deep = 0.72 * wide
        yield Blob("disc", (x, y, z + step / 2), (wide * 0.95, deep * 0.95, 0.2 * step), 4.0)
        body = Blob("", (x, y, z), (wide, deep, 0.39 * step), 4.0)
        arch = Blob("", (x, y + deep + 9, z), (wide * 0.85, 11, 0.3 * step), 2.5)
        spine = Tube("", ((x, y + deep + 12, z), (x, y + deep + 30, z - 8)), 4.5)
        across = ((x - wide - 9, y + deep + 5, z), (x + wide + 9, y + deep + 5, z))
        for tissue, less in (("bone", 0.0), ("marrow", 1.6)):
            for shape in (body, arch, spine, Tube("", across, 4.5)):
                yield _inset_shape(shape, tissue, less)
    canal = []
    for z in np.arange(110, 760, 18.0).tolist():
        x, y, _ = curve(z)
        canal.append((x, y + float(np.interp(z, (165, 340, 580, 760), (25, 21, 17, 14))), z))
    for tissue, radius, first in (("fat", 9.5, 0), ("csf", 8.0, 0), ("white", 4.8, 14)):
        yield Tube(tissue, tuple(canal[first:]), radius)
