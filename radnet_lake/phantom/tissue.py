"""Takes tissue codes, gives CT and MR images of them by the signal equations.

Images are (D, H, W): slices, rows, columns.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


class Tissue(NamedTuple):
    """CT number (HU), proton density, T1, T2 (ms, 1.5 and 3 T), ADC (1e-3 mm2/s), uptake, flow.

    uptake: agent concentration relative to blood in the venous phase. flow: 1 where blood moves.
    Values are rounded from common relaxometry and CT tables; the order of tissues is what counts.
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


class Acquisition(NamedTuple):
    """MR timing: family SE, IR, GR or EP; TR, TE, TI in ms; flip angle in degrees; b in s/mm2."""

    family: str
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0
    b: float = 0.0
    fat_sat: bool = False


def simulate_ct(labels: Labels, agent: float, noise: float, rng: np.random.Generator) -> Array:
    """Tissue codes -> CT numbers in HU, with iodine (`agent` 1: venous phase) and `noise` HU."""
    table = np.array([t.hu + 150 * agent * t.uptake for t in TISSUES.values()], np.float32)
    image = table[labels]
    image += 1.9 * noise * rng.standard_normal(image.shape, np.float32)
    return np.maximum(_blur(image), np.float32(-1024))


def relax_signal(scan: Acquisition, tesla: float, agent: float) -> Array:
    """MR timing -> signal of every tissue by the sequence's equation, water is 1; shape (tissues,).

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
    labels: Labels, scan: Acquisition, tesla: float, agent: float, rng: np.random.Generator
) -> Array:
    """Tissue codes -> MR magnitude with coil bias and Rician noise; 99th percentile near 1000."""
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
    """Tissue codes -> apparent diffusion coefficient in 1e-6 mm2/s, with noise."""
    table = np.array([1000 * t.adc if t.pd > 0.3 else 0 for t in TISSUES.values()], np.float32)
    image = _blur(table[labels])
    noisy: Array = np.clip(
        image * (1 + 0.06 * rng.standard_normal(image.shape, np.float32)), 0, 4000
    )
    return noisy


def _blur(image: Array) -> Array:
    """Image -> image with the point spread (1, 2, 1) / 4 along rows and columns."""
    for axis in (1, 2):
        a = np.swapaxes(image, 1, axis)
        soft = a.copy()
        soft[:, 1:-1] = 0.5 * a[:, 1:-1] + 0.25 * (a[:, :-2] + a[:, 2:])
        image = np.swapaxes(soft, 1, axis)
    return np.ascontiguousarray(image)
