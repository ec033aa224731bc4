"""The phantom archive: digital patients, scanned, as DICOM of several vendors' habits, with truth.

`plan_patient` decides everything but pixels, `render_series` makes them, `phantom` writes.
Equal settings give equal bytes. Names, dates and places are invented; they are there to be removed.
"""

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, RLELossless

from radnet_lake import anatomy
from radnet_lake.anatomy import Array, Grid, Patient, Scan
from radnet_lake.errors import SettingError, StoreError

VIEWS: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
"""Directions of the next slice, row and column, LPS."""


@dataclass(frozen=True)
class Region:
    """What a study covers: nominal box x, y, z (mm), labels, slice spacings (mm), words."""

    half_x: float
    y: tuple[float, float]
    z: tuple[float, float]
    coverage: tuple[str, ...]
    spacing: tuple[float, float]
    words: str  # English, German, French, Spanish, Italian, Polish
    part: str


REGIONS: dict[str, Region] = {
    "head": Region(82, (-100, 104), (742, 902), ("brain",), (3.4, 6.8),
        "BRAIN|Schädel|ENCEPHALE|CEREBRO|ENCEFALO|GŁOWA", "BRAIN"),
    "neck": Region(95, (-100, 95), (572, 806), ("upper_head_neck", "lower_head_neck"), (3, 6),
        "NECK|Hals|COU|CUELLO|COLLO|SZYJA", "NECK"),
    "sinus": Region(75, (-112, 60), (676, 806), ("upper_head_neck",), (2, 4),
        "SINUS|SINUS|SINUS|SINUS|SINUS|SINUS", "SINUS"),
    "chest": Region(188, (-118, 122), (290, 596), ("lung",), (3, 8),
        "CHEST|Thorax|THORAX|TORAX|TORACE|KLATKA PIERSIOWA", "CHEST"),
    "breast": Region(180, (-190, 30), (368, 514), ("breast",), (2.5, 5),
        "BREAST|Mamma|SEIN|MAMA|MAMMELLA|PIERSI", "BREAST"),
    "abdomen": Region(172, (-118, 122), (190, 416), ("liver", "kidney"), (3, 8),
        "ABDOMEN|Oberbauch|ABDOMEN|ABDOMEN|ADDOME|JAMA BRZUSZNA", "ABDOMEN"),
    "renal": Region(172, (-118, 122), (190, 336), ("kidney",), (2.5, 5),
        "RENAL|Nieren|REINS|RENAL|RENAL|NEREK", "KIDNEY"),
    "abdpel": Region(188, (-122, 125), (-42, 416), ("liver", "kidney", "intestine", "pelvis"),
        (4, 10), "ABDOMEN PELVIS|Abdomen/Becken|ABDOMEN BASSIN|ABDOMEN Y PELVIS|ADDOME PELVI|"
        "BRZUCH I MIEDNICA", "ABDOMENPELVIS"),
    "thab": Region(190, (-120, 125), (190, 596), ("lung", "liver", "kidney"), (4, 9),
        "CHEST ABDOMEN|Thorax/Oberbauch|THORAX ABDOMEN|TORAX ABDOMEN|TORACE ADDOME|KLATKA BRZUCH",
        "CHESTABDOMEN"),
    "cap": Region(190, (-122, 125), (-42, 596), ("lung", "liver", "kidney", "intestine",
        "pelvis"), (5.4, 11), "CHEST ABDOMEN PELVIS|Thorax/Abdomen/Becken|THORAX ABDOMEN BASSIN|"
        "TORAX ABDOMEN PELVIS|TORACE ADDOME PELVI|KLATKA BRZUCH MIEDNICA", "CHESTABDPELVIS"),
    "whole": Region(190, (-122, 125), (-130, 905), ("brain", "upper_head_neck",
        "lower_head_neck", "lung", "liver", "kidney", "intestine", "pelvis"), (8.6, 11),
        "WHOLE BODY|Ganzkörper WHOLE BODY|WHOLE BODY|WHOLE BODY|WHOLE BODY|WHOLE BODY",
        "WHOLEBODY"),
    "pelvis": Region(186, (-118, 122), (-44, 192), ("pelvis",), (4, 8),
        "PELVIS|Becken|BASSIN|PELVIS|BACINO|MIEDNICA", "PELVIS"),
    "prostate": Region(95, (-70, 100), (-34, 52), ("pelvis",), (3, 4.5),
        "PROSTATE|Prostata|PROSTATE|PROSTATA|PROSTATA|PROSTATA", "PROSTATE"),
}  # fmt: skip
MR_STUDIES: dict[str, str] = {
    "head": """LOCALIZER axial pre .5; T1-SE sagittal pre .4; T1-FLAIR sagittal pre .5;
        T1-FLAIR axial pre .65;
        T1-FLAIR coronal pre .2; T2-SE axial pre .8; T2-SE coronal pre .3; T2-SE sagittal pre .15;
        T2-FLAIR axial pre .8;
        T2-FLAIR coronal pre .3; T2-FLAIR sagittal pre .25; DWI axial pre .2;
        DWI axial pre .1 two_b; ADC axial pre .2;
        MRA axial pre .1; DERIVED axial pre .05 mip; T2-SE axial pre .08 nodesc;
        T1-SE axial pre .08 few;
        T2-FLAIR axial pre .05 flipped; T2-SE axial pre .05 oblique; T2-SE axial pre .1 enhanced;
        GR sagittal pre .15;
        PERFUSION axial post .05 dynamic; T1-SE axial post .6; T1-SE coronal post .35;
        T1-SE sagittal post .25;
        T1-FLAIR axial post .35; T1-FLAIR coronal post .2; T2-FLAIR axial post .15;
        T2-SE coronal post .1""",
    "neck": """LOCALIZER axial pre .5; T1-SE axial pre .8; T1-SE coronal pre .5;
        T2-SE axial pre .8; T2-SE sagittal pre .5;
        STIR coronal pre .6; T1-SE axial post .8; T1-SE coronal post .6; T1-SE sagittal post .3;
        T2-SE axial pre .1 missing""",
    "breast": """LOCALIZER axial pre .5; T1-SE axial pre .8; T2-SE axial pre .9;
        T2-SE sagittal pre .4; T2-SE coronal pre .3;
        STIR axial pre .8; PERFUSION axial post .95 siblings; T1-SE axial post .6;
        T1-SE sagittal post .5; DERIVED axial post .2 mip""",
    "abdomen": """LOCALIZER axial pre .5; T2-SE coronal pre .9; T2-SE axial pre .8;
        T1-SE axial pre .6; T1-SE coronal pre .3;
        GR axial pre .4; GR axial post .5; PERFUSION axial post .4 dynamic; T1-SE axial post .7;
        T1-SE coronal post .6;
        T2-SE axial post .3; DWI axial pre .3""",
    "pelvis": """LOCALIZER axial pre .5; T2-SE axial pre .9; T2-SE sagittal pre .9;
        T2-SE coronal pre .6; T1-SE axial pre .7;
        PD-SE axial pre .2; DWI axial pre .4; ADC axial pre .4; T1-SE axial post .7;
        T1-SE sagittal post .5; GR axial post .3""",
    "prostate": """T2-SE axial pre .95; T2-SE sagittal pre .8; T2-SE coronal pre .8;
        T1-SE axial pre .6; DWI axial pre .4;
        ADC axial pre .5; PERFUSION axial post .95 siblings; T1-SE axial post .4""",
}  # fmt: skip
CT_STUDY = """LOCALIZER coronal pre .5 scout; CT axial pre .5; CT axial post .95;
        CT coronal post .4; CT sagittal post .35;
    CT coronal pre .2; CT sagittal pre .2; CT axial pre .05 tilt; CT axial post .05 missing;
        CT axial pre .05 copies;
    CT axial post .05 monitor; CT axial pre .05 enhanced; CT axial pre .05 nodesc;
        CT axial pre .05 feet"""
EXCLUDED = {
    "LOCALIZER": "geom", "GR": "seq", "DWI": "seq", "ADC": "seq", "MRA": "seq", "PD-SE": "seq",
    "STIR": "stir",
    "PERFUSION": "time", "DERIVED": "derived", "tilt": "geom", "missing": "geom",
    "monitor": "geom", "scout": "geom",
    "dynamic": "geom", "two_b": "geom", "few": "few", "nodesc": "nodesc", "siblings": "time",
    "mip": "derived",
    "flipped": "view", "oblique": "view", "feet": "view",
}  # fmt: skip


@dataclass(frozen=True)
class Vendor:
    """A scanner maker's habits: names, CT intercept, words for view and agent, MR descriptions:

    one per entry of TEXT_ORDER.
    """

    name: str
    manufacturer: str
    mr: str
    ct: str
    intercept: int
    signed: bool
    views: str
    pre: str
    post: str
    texts: str


VENDORS: tuple[Vendor, ...] = (
    Vendor("siemens", "SIEMENS", "Aera", "SOMATOM Definition AS", -1024, False, "tra|cor|sag",
        "_nativ", "_KM",
           "t1_tse_{v}|t2_tse_{v}|pd_tse_{v}|t1_tirm_{v}_dark-fluid|t2_tirm_{v}_dark-fluid|t2_stir_{v}|t1_mprage_{v}|"
           "t1_vibe_{v}_fs|ep2d_diff_{v}|ep2d_diff_{v}_ADC|TOF_3D_{v}|t1_fl3d_{v}_dyn|TOF_{v}_MIP"),
    Vendor("ge", "GE MEDICAL SYSTEMS", "Signa HDxt", "LightSpeed VCT", -1024, True, "Ax|Cor|Sag",
        " C-", " +C",
           "{v} T1 FSE|{v} T2 FRFSE|{v} PD FSE|{v} T1 FLAIR|{v} T2 FLAIR|{v} STIR|"
           "{v} 3D BRAVO|{v} LAVA|{v} DWI|"
           "{v} ADC|{v} 3D TOF|Ph{n}/{v} LAVA|{v} TOF MIP"),
    Vendor("philips", "Philips Medical Systems", "Achieva", "Brilliance 64", -1024, False,
        "TRA|COR|SAG", " pre Gd", " Gd",
           "T1W_TSE_{v}|sT2W_TSE_{v}|PDW_TSE_{v}|T1W_FLAIR_{v}|FLAIR_T2W_{v}|STIR_{v}|T1W_3D_TFE_{v}|eTHRIVE_{v}|"
           "DWI_SSh_{v}|dADC_{v}|TOF_{v}|dyn_eTHRIVE_{v}|MIP TOF_{v}"),
    Vendor("canon", "CANON_MEC", "Vantage Titan", "Aquilion ONE", 0, True, "AX|COR|SAG", " PRE",
        " POST",
           "T1 SE {v}|T2 FSE {v}|PD FSE {v}|T1 FLAIR {v}|T2 FLAIR {v}|STIR {v}|MPRAGE {v}|"
           "Quick 3D {v}|DWI {v}|"
           "ADC {v}|TOF {v}|DYNAMIC {v}|MIP TOF {v}"),
    Vendor("uih", "UIH", "uMR 780", "uCT 780", -8192, False, "tra|cor|sag", "_pre ce", "_post gd",
           "t1_fse_{v}|t2_fse_{v}|pd_fse_{v}|t1_flair_{v}|t2_flair_{v}|stir_fse_{v}|"
           "t1_gre_mprage_{v}|t1_gre_{v}_quick 3d|"
           "epi_dwi_{v}|epi_dwi_{v}_ADC|tof_{v}|t1_quick3d_dyn_{v}|tof_{v}_mip"),
)  # fmt: skip
TEXT_ORDER = ("T1-SE", "T2-SE", "PD-SE", "T1-FLAIR", "T2-FLAIR", "STIR", "MPRAGE", "GR", "DWI",
    "ADC", "MRA", "PERFUSION", "DERIVED")  # fmt: skip
SYNTAXES: dict[str, UID] = {
    "explicit": UID("1.2.840.10008.1.2.1"),
    "implicit": UID("1.2.840.10008.1.2"),
    "deflated": UID("1.2.840.10008.1.2.1.99"),
    "big": UID("1.2.840.10008.1.2.2"),
    "rle": UID("1.2.840.10008.1.2.5"),
}
SYNTAX_CYCLE = ("explicit", "implicit", "deflated", "explicit", "big", "implicit", "rle")
CT_PHASES = (
    ("w/o contrast|nativ|sans injection|sin contraste|senza mdc|bez kontrastu"),
    ("C+ venous|mit KM|avec injection|con contraste|con mdc|ze wzmocnieniem"),
)
AGENTS = {
    "CT": ("Omnipaque 350", "ULTRAVIST 370", "Iomeron", "APPLIED"),
    "MR": ("Gadovist", "DOTAREM", "MultiHance"),
}
HABITS = ("named", "named", "everywhere", "empty", "none_word", "text_only")
NAMES = ("Mustermann^Max", "Musterfrau^Erika", "Public^John", "Doe^Jane", "Fulano^Beltrán",
    "Dupont-Exemple^Marie",
         "Przykładowy^Jan", "Rossi-Esempio^Carla")  # fmt: skip
TRUTH_COLUMNS = (
    "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "SeriesDescription",
    "sequence", "view",
    "contrast", "coverage", "time_series", "slice_count", "slice_spacing_mm", "excluded_by",
    "vendor", "transfer_syntax",
    "n_files", "oddity", "mask",
)  # fmt: skip


@dataclass(frozen=True)
class PhantomConfig:
    """Settings of the phantom archive."""

    out: str
    """folder to write; must be empty or new. The truth goes beside it, to OUT.truth.csv"""
    patients: int = 4
    """digital patients; four show every oddity"""
    seed: int = 0
    """same seed and settings, same bytes"""
    size: int = 128
    """rows and columns of a typical image, 32 to 512"""

    def __post_init__(self) -> None:
        if not self.out:
            raise SettingError("no folder is named", "OUT", "name a new folder")
        if self.patients < 1:
            raise SettingError(f"{self.patients} is too few", "--patients", "give 1 or more")
        if not 0 <= self.seed < 2**63:
            raise SettingError(f"{self.seed} is out of range", "--seed", "give 0 or more")
        if not 32 <= self.size <= 512:
            raise SettingError(f"{self.size} is out of range", "--size", "give 32 to 512")


@dataclass(frozen=True)
class PhantomReport:
    """What was written: counts, and where the truth lies."""

    patients: int
    studies: int
    series: int
    files: int
    truth: str

    def __str__(self) -> str:
        return (
            f"{self.patients} patients, {self.studies} studies, {self.series} series,"
            f" {self.files} files; truth in {self.truth}"
        )


@dataclass(frozen=True)
class Study:
    """One visit to one scanner; `offset` (mm) is where the table put the patient."""

    uid: str
    frame_uid: str
    patient_id: str
    name: str
    patient: Patient
    modality: str
    region: str
    vendor: Vendor
    tesla: float
    syntax: str
    habit: str
    agent: str
    language: int
    day: date
    birth: date
    offset: npt.NDArray[np.float64]
    text: str
    zipped: bool


@dataclass(frozen=True)
class Series:
    """One planned series. Frames go by grid, then look (a time point or b-value), then slice."""

    study: Study
    uid: str
    number: int
    text: str
    sequence: str
    view: str
    post: bool
    grids: tuple[Grid, ...]
    looks: tuple[tuple[Scan, float], ...]  # timing and agent level
    keep: tuple[int, ...]  # slices that were sent
    noise: float  # HU
    odd: str
    seed: int
    bare: bool  # written without preamble


def make_uid(*parts: object) -> str:
    """A UID under 2.25 that depends on the parts only (PS3.5 B.2)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def plan_patient(config: PhantomConfig, number: int) -> list[Series]:
    """All of a patient's series but pixels: a brain MR, a body CT, and up to two more studies."""
    rng = np.random.default_rng([config.seed, number])
    sex = "F" if number % 2 else "M"
    patient = anatomy.build_patient(rng, sex, int(rng.integers(20, 85)))
    body = ("abdpel", "chest", "cap", "abdomen", "thab", "renal", "abdpel", "cap")
    kinds = [("MR", "head"), ("CT", str(body[(number + int(rng.integers(0, 2))) % len(body)]))]
    extra = (("prostate",), ("breast",), ("neck", "abdomen"), ("pelvis", "abdomen"))[number % 4]
    if number % 4 < 2 or rng.random() < 0.8:
        kinds.append(("MR", str(rng.choice(extra))))
    if number % 8 == 3 or rng.random() < 0.4:
        region = "whole" if number % 8 == 3 else str(rng.choice(["neck", "head", "sinus", "head"]))
        kinds.append(("CT", region))
    plans: list[Series] = []
    for index, (modality, region) in enumerate(kinds):
        study = _plan_study(config, number, index, patient, modality, region, rng)
        plans += _plan_series(config, number, study, rng)
    return plans


def _plan_study(
    config: PhantomConfig,
    number: int,
    index: int,
    patient: Patient,
    modality: str,
    region: str,
    rng: np.random.Generator,
) -> Study:
    counter = 3 * number + index
    vendor = VENDORS[(counter + number // 5) % len(VENDORS)]
    language = int(rng.integers(0, 6))
    uid = make_uid(config.seed, "study", number, index)
    prefix = {"MR": "MR|MRT|IRM|RM|RM|MR", "CT": "CT|CT|TDM|TC|TC|TK"}[modality].split("|")[
        language
    ]
    return Study(
        uid=uid,
        frame_uid=make_uid(uid, "frame"),
        patient_id=f"PH{config.seed:04d}{number:05d}",
        name=f"{NAMES[number % len(NAMES)]}{'' if number < len(NAMES) else number}",
        patient=patient,
        modality=modality,
        region=region,
        vendor=vendor,
        tesla=float(rng.choice([1.5, 3.0])),
        syntax=SYNTAX_CYCLE[counter % len(SYNTAX_CYCLE)],
        habit=str(rng.choice(HABITS)),
        agent=str(rng.choice(AGENTS[modality])),
        language=language,
        day=date(2015, 1, 1) + timedelta(days=int(rng.integers(0, 3000))),
        birth=date(2015 - patient.age, 1, 1) + timedelta(days=int(rng.integers(0, 365))),
        offset=np.round(rng.uniform(-30, 30, 3) - np.array([0, 0, 800 * rng.random()]), 1),
        text=f"{prefix} {REGIONS[region].words.split('|')[language]}",
        zipped=number % 4 == 2 and index == 0,
    )


def _plan_series(
    config: PhantomConfig, number: int, study: Study, rng: np.random.Generator
) -> list[Series]:
    lines = (CT_STUDY if study.modality == "CT" else MR_STUDIES[study.region]).split(";")
    with_agent = rng.random() < (0.65 if study.modality == "CT" else 0.75)
    plans: list[Series] = []
    for index, line in enumerate(lines):
        sequence, view, phase, chance, *rest = line.split()
        odd = rest[0] if rest else ""
        forced = (odd or sequence in EXCLUDED) and (number + index) % 4 == 0 and odd != "siblings"
        if (study.modality == "CT" and not with_agent and index == 1) or forced:
            chance = "1"
        draw = rng.random()
        if draw > float(chance) or (phase == "post" and not with_agent and not forced):
            continue
        if odd == "tilt" and study.region not in ("head", "neck", "sinus", "abdomen", "chest"):
            continue
        many = 5 if odd == "siblings" else 1
        first = _plan_one(config, study, len(plans) + 1, sequence, view, phase == "post", odd, rng)
        bare = number % 4 == 3 and study.modality == "MR" and not plans
        for time in range(many):
            scan = first.looks[0][0]
            looks = ((scan, 0.3 * time),) if many > 1 else first.looks
            text = first.text.replace("{n}", str(time + 1))
            if many > 1 and study.vendor.name != "ge":
                text = f"{text} {time + 1}"
            uid = make_uid(study.uid, index, time)
            plan = {
                **first.__dict__,
                "looks": looks,
                "text": text,
                "uid": uid,
                "number": len(plans) + 1,
                "bare": bare,
            }
            plans.append(Series(**{**plan, "seed": int(rng.integers(2**31))}))
    return plans


def _plan_one(
    config: PhantomConfig,
    study: Study,
    number: int,
    sequence: str,
    view: str,
    post: bool,
    odd: str,
    rng: np.random.Generator,
) -> Series:
    grids = _plan_grids(config, study, view, odd, rng)
    if sequence == "LOCALIZER" and not odd:
        grids = tuple(_plan_grids(config, study, plane, "three_plane", rng)[0] for plane in VIEWS)
    scan = draw_scan(sequence, study, rng)
    looks: tuple[tuple[Scan, float], ...] = ((scan, 1.0 if post else 0.0),)
    if odd == "dynamic" or odd == "monitor":
        looks = tuple((scan, level) for level in (0.0, 0.5, 1.0, 0.9))
    elif odd == "two_b":
        looks = ((scan._replace(b=0), 0.0), (scan, 0.0))
    depth = grids[0].shape[0]
    keep = [k for k in range(depth) if odd != "missing" or k not in (depth // 2, depth // 2 + 1)]
    return Series(
        study, "", number, _write_text(study, sequence, view, post, grids[0], odd), sequence,
            view, post, grids, looks,
        tuple(keep), float(rng.uniform(5, 16)), odd, 0, False,
    )  # fmt: skip


def _plan_grids(
    config: PhantomConfig, study: Study, view: str, odd: str, rng: np.random.Generator
) -> tuple[Grid, ...]:
    region = REGIONS[study.region]
    scale = np.array(study.patient.scale)
    low = np.array([-region.half_x, region.y[0], region.z[0]]) * scale
    high = np.array([region.half_x, region.y[1], region.z[1]]) * scale
    steps = np.array(VIEWS[view])
    extent = np.abs(steps) @ (high - low)
    spacing = round(float(rng.uniform(*region.spacing)), 1)
    most = 20 if odd in ("dynamic", "two_b", "siblings") else 120
    depth = int(np.clip(np.ceil(extent[0] / spacing), 16, most))
    spacing = max(spacing, round(float(extent[0]) / depth, 2))
    depth = {"few": 12, "three_plane": 3, "scout": 1, "monitor": 1}.get(odd, depth)
    matrix = int(config.size * rng.choice([0.8125, 1.0, 1.125]))
    narrow = 0.875 if view == "axial" and rng.random() < 0.3 and extent[2] > extent[1] else 1.0
    if odd == "three_plane":
        matrix, narrow, spacing = config.size, 1.0, 20.0
    pixel = round(
        float(max(extent[1] / narrow, extent[2])) * float(rng.uniform(1.04, 1.16)) / matrix, 4
    )
    if odd == "three_plane":
        pixel = round(float((high - low).max()) * 1.1 / matrix, 4)
    if odd == "flipped":
        steps = steps * np.array([[1], [-1], [-1]])
    if odd == "feet":
        steps = np.array([(0, 0, -1), (0, 1, 0), (-1, 0, 0)])
    tilt = {"oblique": 45.0, "tilt": 15.0}.get(odd, 0.0)
    if (
        not tilt
        and study.region in ("head", "prostate")
        and view != "sagittal"
        and odd != "three_plane"
    ):
        tilt = float(rng.uniform(-14, 14))
    axes = anatomy.turn_axes((round(tilt, 1), 0, 0))
    steps = steps @ axes
    if odd == "tilt":  # the table goes on along z while the gantry leans
        steps[0] = VIEWS[view][0]
    steps = np.round(steps, 6) * np.array([[spacing], [pixel], [pixel]])
    shape = (depth, int(matrix * narrow), matrix)
    middle = (low + high) / 2 + rng.uniform(-4, 4, 3)
    if depth in (1, 12):
        middle[2] += 10
    origin = np.round(middle - (np.array(shape) - 1) / 2 @ steps, 3)
    return (Grid(origin, steps, shape),)


def draw_scan(sequence: str, study: Study, rng: np.random.Generator) -> Scan:
    """Draw TR, TE, TI, flip angle and b as this sequence is run in practice at this field."""
    high = study.tesla > 2
    long_tr, fluid = float(rng.integers(34, 60) * 100), 4200.0

    def null(tr: float, t1: float) -> float:
        return float(round(t1 * (np.log(2) - np.log(1 + np.exp(-tr / t1)))))

    if sequence == "T1-SE":
        return Scan("SE", float(rng.integers(42, 62) * 10 + 150 * high), float(rng.integers(8, 15)))
    if sequence in ("T2-SE", "PD-SE"):
        te = rng.integers(80, 121) if sequence == "T2-SE" else rng.integers(12, 24)
        return Scan("SE", long_tr, float(te))
    if sequence == "T1-FLAIR":
        tr = float(rng.integers(18, 24) * 100)
        return Scan(
            "IR", tr, float(rng.integers(8, 22)), round(null(tr, fluid) * rng.uniform(0.9, 1.0))
        )
    if sequence == "T2-FLAIR":
        tr = float(rng.integers(80, 101) * 100)
        return Scan(
            "IR",
            tr,
            float(rng.integers(100, 141)),
            round(null(tr, fluid) * rng.uniform(0.96, 1.01)),
        )
    if sequence == "STIR":
        return Scan(
            "IR", long_tr, float(rng.integers(48, 70)), null(long_tr, 370.0 if high else 260.0)
        )
    if sequence in ("DWI", "ADC"):
        return Scan(
            "EP",
            long_tr + 1500,
            float(rng.integers(70, 95)),
            b=1000.0 if study.region == "head" else 800.0,
        )
    if sequence in ("MRA", "DERIVED") and study.region == "head":
        return Scan("GR", 22.0, 3.8, flip=20.0)
    if study.region == "head":
        return Scan("GR", 8.2, 3.2, flip=12.0)
    return Scan("GR", 4.6, 1.9, flip=12.0, fat_sat=True)


def _write_text(study: Study, sequence: str, view: str, post: bool, grid: Grid, odd: str) -> str:
    vendor, region = study.vendor, REGIONS[study.region]
    if odd == "nodesc":
        return ""
    if sequence == "LOCALIZER":
        words = {
            "siemens": "Topogram" if odd else "localizer",
            "ge": "Scout" if odd else "3-PLANE LOC",
        }
        return words.get(vendor.name, "Surview" if odd else "SURVEY")
    word = vendor.views.split("|")[list(VIEWS).index(view)]
    if sequence == "CT":
        if odd == "monitor":
            return "Monitoring"
        kernel = {
            "siemens": "B31f",
            "ge": "STANDARD",
            "philips": "B",
            "canon": "FC13",
            "uih": "B_SOFT",
        }[vendor.name]
        phase = CT_PHASES[post].split("|")[study.language]
        plain = study.habit == "named" and not post
        name = region.words.split("|")[study.language]
        mpr = "" if view == "axial" else f" MPR {word}"
        gap = float(np.linalg.norm(grid.steps[0]))
        return f"{name} {'' if plain else phase + ' '}{gap:.1f} {kernel}{mpr}"
    key = "MPRAGE" if sequence == "GR" and study.region == "head" else sequence
    text = vendor.texts.split("|")[TEXT_ORDER.index(key)].replace("{v}", word)
    if odd == "dynamic":
        text = text.replace("Ph{n}/", "Multiphase ")
    elif odd == "siblings":
        return text
    if post:
        return text + vendor.post
    return text + (
        vendor.pre
        if study.habit in ("everywhere", "empty") and sequence in ("T1-SE", "T1-FLAIR", "GR")
        else ""
    )


def render_series(series: Series) -> tuple[Array, ...]:
    """The exact pixels of a series before quantisation: HU, MR signal, or ADC in 1e-6 mm2/s.

    One array (looks * slices, H, W) per grid, in the order of `list_frames`.
    """
    study, stacks = series.study, []
    for grid in series.grids:
        labels = anatomy.paint_labels(study.patient, grid)[list(series.keep)]
        images = []
        for index, (scan, agent) in enumerate(series.looks):
            rng = np.random.default_rng([series.seed, index])
            if study.modality == "CT":
                image = anatomy.simulate_ct(labels, agent, series.noise, rng)
            elif series.sequence == "ADC":
                image = anatomy.map_diffusion(labels, rng)
            else:
                image = anatomy.simulate_mr(labels, scan, study.tesla, agent, rng)
            if series.odd == "mip":
                image = np.stack([image[max(0, k - 3) : k + 4].max(0) for k in range(len(image))])
            images.append(image)
        stacks.append(np.concatenate(images))
    return tuple(stacks)


def mask_liver(series: Series) -> npt.NDArray[np.bool_]:
    """True where the liver with its vessels and lesions is, (D, H, W) on the series' first grid."""
    labels = anatomy.paint_labels(series.study.patient, series.grids[0])[list(series.keep)]
    return np.isin(labels, [anatomy.CODES[t] for t in anatomy.LIVER_TISSUES])


def list_frames(series: Series) -> list[list[tuple[npt.NDArray[np.float64], int]]]:
    """Per grid, position (LPS mm, table offset included) and look of each frame rendered."""
    return [
        [
            (grid.origin + k * grid.steps[0] + series.study.offset, look)
            for look in range(len(series.looks))
            for k in series.keep
        ]
        for grid in series.grids
    ]


def measure_spacing(series: Series) -> float:
    """Distance between neighbouring slices along their normal, mm."""
    steps = series.grids[0].steps
    normal = np.cross(steps[2], steps[1])
    return round(abs(float(steps[0] @ normal)) / float(np.linalg.norm(normal)), 4)


def find_exclusion(series: Series) -> str:
    """The reason that the default order of exclusions names first; empty for a series to keep."""
    reasons = {EXCLUDED.get(series.odd, ""), EXCLUDED.get(series.sequence, "")}
    depth, gap = len(series.keep), measure_spacing(series)
    if gap * max(depth, 48) / 48 > 15:
        reasons.add("spacing")
    order = ("geom", "few", "nodesc", "time", "seq", "stir", "spacing", "view", "derived")
    return next((reason for reason in order if reason in reasons), "")


def list_coverage(series: Series) -> tuple[str, ...]:
    """Coverage labels whose target lies within the field of view; a study's own region only."""
    return (
        () if series.odd in ("scout", "monitor", "few") else REGIONS[series.study.region].coverage
    )


def quantise_frame(series: Series, frame: Array) -> tuple[npt.NDArray[Any], float, float]:
    """Stored integers, slope and intercept as this vendor writes them, without padding."""
    vendor = series.study.vendor
    slope, intercept = 1.0, 0.0
    if series.study.modality == "CT":
        intercept = float(vendor.intercept)
    elif vendor.name == "philips":  # every slice has a slope of its own
        slope = max(float(frame.max()), 1.0) / 4095
        slope = float(f"{slope:.8g}")
    stored = np.rint((frame.astype(np.float64) - intercept) / slope)
    return stored.astype(np.int16 if is_signed(series) else np.uint16), slope, intercept


def is_signed(series: Series) -> bool:
    """Whether the vendor stores this modality as signed integers."""
    return series.study.vendor.signed and (
        series.study.modality == "CT" or series.study.vendor.name == "ge"
    )


def find_padding(series: Series, grid: Grid) -> npt.NDArray[np.bool_]:
    """True outside the circle that GE reconstructs in CT, where it stores -2000; (H, W)."""
    _, rows, columns = grid.shape
    if series.study.modality != "CT" or series.study.vendor.name != "ge":
        return np.zeros((rows, columns), np.bool_)
    y, x = np.ogrid[:rows, :columns]
    middle = max(rows, columns) / 2 - 0.5
    corner: npt.NDArray[np.bool_] = (y - rows / 2 + 0.5) ** 2 + (x - columns / 2 + 0.5) ** 2 > (
        middle * 1.05
    ) ** 2
    return corner


def build_header(series: Series) -> Dataset:
    """The attributes that all frames of a series share, as this vendor writes them."""
    study, patient = series.study, series.study.patient
    vendor, region, is_ct = study.vendor, REGIONS[study.region], study.modality == "CT"
    clock = f"{8 + series.number // 12:02d}{5 * (series.number % 12):02d}07"
    ds = Dataset()
    ds.SpecificCharacterSet = (
        "ISO_IR 192" if study.language == 5 or not study.name.isascii() else "ISO_IR 100"
    )
    kind = (
        ["DERIVED", "SECONDARY"]
        if series.odd == "mip" or series.sequence == "ADC"
        else ["ORIGINAL", "PRIMARY"]
    )
    value = {"scout": "LOCALIZER", "mip": "PROJECTION IMAGE"}.get(
        series.odd, "AXIAL" if is_ct else "M"
    )
    ds.ImageType = [*kind, "ADC" if series.sequence == "ADC" else value] + (
        ["ND"] if vendor.name == "siemens" else []
    )
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2" if is_ct else "1.2.840.10008.5.1.4.1.1.4"
    day = study.day.strftime("%Y%m%d")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = ds.InstanceCreationDate = (
        day
    )
    ds.StudyTime, ds.SeriesTime, ds.AcquisitionTime = "080000", clock, clock
    ds.ContentTime = ds.InstanceCreationTime = clock
    ds.AccessionNumber = "A" + study.uid[-9:]
    ds.Modality, ds.Manufacturer = study.modality, vendor.manufacturer
    ds.InstitutionName = (
        "Klinikum Musterstadt" if study.language == 1 else "Example General Hospital"
    )
    ds.InstitutionAddress = "1 Sample Street, Exampletown"
    ds.ReferringPhysicianName, ds.OperatorsName = "Beispiel^Bruno^^Dr.", "Example^Olga"
    ds.StationName, ds.DeviceSerialNumber = f"ST{vendor.name.upper()}1", "00042"
    ds.StudyDescription = study.text
    if series.text:
        ds.SeriesDescription = series.text
    ds.ProtocolName = series.text or study.text
    ds.ManufacturerModelName = vendor.ct if is_ct else vendor.mr
    ds.SoftwareVersions = "phantom 1"
    ds.PatientName, ds.PatientID = study.name, study.patient_id
    ds.PatientBirthDate, ds.PatientSex = study.birth.strftime("%Y%m%d"), patient.sex
    ds.PatientAge = f"{patient.age:03d}Y"
    ds.BodyPartExamined, ds.PatientPosition = (
        region.part,
        "FFS" if study.region == "prostate" else "HFS",
    )
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
        study.uid,
        series.uid,
        study.frame_uid,
    )
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", series.number, 1
    ds.PositionReferenceIndicator = ""
    gap = measure_spacing(series)
    ds.SliceThickness = f"{0.9 * gap:.4g}"
    if not is_ct:
        ds.SpacingBetweenSlices = f"{gap:.6g}"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    signed = is_signed(series)
    wide = signed or (is_ct and vendor.intercept < -1024)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16 if wide else 12, 15 if wide else 11
    ds.PixelRepresentation = int(signed)
    if series.odd == "mip":
        ds.DerivationDescription = "maximum intensity projection"
    _add_agent(ds, series)
    if is_ct:
        _add_ct(ds, series)
    else:
        _add_mr(ds, series)
    return ds


def _add_agent(ds: Dataset, series: Series) -> None:
    study, post = series.study, series.post
    values = {
        "named": study.agent if post else None,
        "everywhere": study.agent,
        "empty": "",
        "none_word": study.agent if post else "NONE",
        "text_only": None,
    }
    # Where nothing but the agent could tell, it does; see the phase words of the description.
    telling = (
        series.study.modality == "CT" or series.sequence in ("T1-SE", "T1-FLAIR", "GR") or post
    )
    value = values["named" if study.habit == "everywhere" and not telling else study.habit]
    if value is not None:
        ds.ContrastBolusAgent = value
    if post and value:
        ds.ContrastBolusRoute = "IV"
        ds.ContrastBolusVolume = "90" if study.modality == "CT" else "8"


def _add_ct(ds: Dataset, series: Series) -> None:
    ds.ScanOptions, ds.KVP = "HELICAL MODE", "120"
    ds.DataCollectionDiameter = "500"
    grid = series.grids[0]
    ds.ReconstructionDiameter = f"{float(np.linalg.norm(grid.steps[2])) * grid.shape[2]:.6g}"
    ds.GantryDetectorTilt = "15" if series.odd == "tilt" else "0"
    ds.TableHeight, ds.RotationDirection, ds.ExposureTime, ds.XRayTubeCurrent = (
        "150",
        "CW",
        "500",
        "220",
    )
    ds.ConvolutionKernel = "B31f" if series.study.vendor.name == "siemens" else "STANDARD"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = (
        str(series.study.vendor.intercept),
        "1",
        "HU",
    )
    if series.study.vendor.name == "ge":
        ds.add_new(0x00280120, "SS", -2000)


SEQUENCE_NAMES = {
    "siemens": {"SE": "*tse2d1_15", "IR": "*tir2d1_16", "GR": "*fl3d1", "EP": "*ep_b1000t"},
    "ge": {"SE": "fse-xl", "IR": "t2flair", "GR": "efgre3d", "EP": "epi2"},
    "philips": {"SE": "TSE", "IR": "TIR", "GR": "T1FFE", "EP": "SEEPI"},
    "canon": {"SE": "FSE2d", "IR": "FIR2d", "GR": "FFE3d", "EP": "SE_EPI"},
    "uih": {"SE": "fse", "IR": "fse_ir", "GR": "gre_3d", "EP": "epi_dwi"},
}


def _add_mr(ds: Dataset, series: Series) -> None:
    study, scan = series.study, series.looks[-1][0]
    vendor, family = study.vendor.name, scan.family
    rage = series.sequence == "GR" and study.region == "head"
    codes = {
        "SE": ["SE"],
        "IR": ["SE", "IR"],
        "GR": ["GR", "IR"] if rage else ["GR"],
        "EP": ["EP", "SE"],
    }[family]
    if vendor == "philips" and study.habit in ("none_word", "text_only") and family == "SE":
        codes = ["RM"]
    ds.ScanningSequence = codes
    ds.SequenceVariant = ["SK", "SP", "MP"] if rage else ["SK"] if family != "GR" else ["SS", "SP"]
    ds.ScanOptions = (
        ["FS"] if scan.fat_sat else ["IR"] if family == "IR" and vendor == "siemens" else ""
    )
    ds.MRAcquisitionType = "3D" if family == "GR" else "2D"
    ds.AngioFlag = "Y" if series.sequence == "MRA" else "N"
    ds.RepetitionTime, ds.EchoTime = f"{2100.0 if rage else scan.tr:g}", f"{scan.te:g}"
    if scan.ti or rage:
        ds.InversionTime = f"{900.0 if rage else scan.ti:g}"
    gauss = vendor == "ge" and study.habit in ("none_word", "empty")
    ds.MagneticFieldStrength = f"{study.tesla * (10000 if gauss else 1):g}"
    ds.ImagingFrequency = f"{42.577 * study.tesla:.6f}"
    ds.ImagedNucleus, ds.EchoNumbers, ds.NumberOfAverages = "1H", 1, "1"
    ds.EchoTrainLength = {"SE": 3 if scan.te < 30 else 15, "IR": 16, "GR": 1, "EP": 1}[family]
    ds.FlipAngle = f"{scan.flip:g}"
    ds.PixelBandwidth, ds.SAR = "180", "0.6"
    name = SEQUENCE_NAMES[vendor][family]
    if vendor in ("siemens", "uih", "canon"):
        ds.SequenceName = "*tfl3d1_16ns" if rage and vendor == "siemens" else name
    b_value = int(scan.b)
    if vendor == "ge":
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x17, "SS", 256 if series.sequence == "LOCALIZER" else 2)
        inner = "t1flair" if series.sequence == "T1-FLAIR" else name
        block.add_new(0x9C, "LO", inner)
        block.add_new(0x9E, "LO", inner)
        ds.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x4F, "SS", len(series.keep))
        if family == "EP":
            coded = 1_000_000_000 + b_value
            ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(
                0x39, "IS", [coded, 8, 0, 0]
            )
    elif vendor == "philips":
        block = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
        block.add_new(0x20, "LO", name)
        if family == "EP":
            block.add_new(0x03, "FL", float(b_value))
    elif vendor == "siemens" and family == "EP":
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", b_value)
    elif vendor == "uih" and family == "EP":
        ds.private_block(0x0065, "Image Private Header", create=True).add_new(
            0x09, "FD", float(b_value)
        )
    elif vendor == "canon" and family == "EP":
        ds.DiffusionBValue = float(b_value)


def build_frames(series: Series, stacks: tuple[Array, ...]) -> Iterator[Dataset]:
    """One data set per frame, the same object changed each time. GE and UIH number downwards."""
    ds = build_header(series)
    total = sum(map(len, stacks))
    number = 0
    for grid, stack, places in zip(series.grids, stacks, list_frames(series), strict=True):
        ds.Rows, ds.Columns = grid.shape[1:]
        row, column = np.linalg.norm(grid.steps[1]), np.linalg.norm(grid.steps[2])
        ds.PixelSpacing = [f"{row:.6g}", f"{column:.6g}"]
        ds.ImageOrientationPatient = write_orientation(grid)
        padding = find_padding(series, grid)
        for frame, (place, look) in zip(stack, places, strict=True):
            stored, slope, _ = quantise_frame(series, frame)
            stored[padding] = -2000 if padding.any() else 0
            number += 1
            ds.SOPInstanceUID = make_uid(series.uid, number)
            down = series.study.vendor.name in ("ge", "uih") and len(series.grids) == 1
            ds.InstanceNumber = total + 1 - number if down else number
            ds.ImagePositionPatient = [f"{v:.8g}" for v in np.round(place, 4)]
            ds.SliceLocation = f"{place[2]:.8g}"
            if len(series.looks) > 1:
                _mark_look(ds, series, look)
            if slope != 1.0:
                ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", f"{slope:.8g}", "US"
            ds.PixelData = stored.astype("<u2" if stored.dtype == np.uint16 else "<i2").tobytes()
            ds["PixelData"].VR = "OW"
            yield ds


def _mark_look(ds: Dataset, series: Series, look: int) -> None:
    start = int(ds.SeriesTime[2:4]) * 60 + 11 * look
    ds.AcquisitionTime = f"{ds.SeriesTime[:2]}{start // 60:02d}{start % 60:02d}"
    if series.odd == "two_b":
        if "DiffusionBValue" in ds or series.study.vendor.name not in (
            "siemens",
            "ge",
            "philips",
            "uih",
        ):
            ds.DiffusionBValue = float(series.looks[look][0].b)
    elif series.study.vendor.name != "canon":
        ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions = look + 1, len(series.looks)


def write_orientation(grid: Grid) -> list[str]:
    """ImageOrientationPatient of a grid: row direction, then column direction."""
    unit = [grid.steps[a] / np.linalg.norm(grid.steps[a]) for a in (2, 1)]
    return [f"{v:.8g}" for v in np.round(np.concatenate(unit), 7) + 0.0]


def build_enhanced(series: Series, stack: Array) -> Dataset:
    """The series as one enhanced object (PS3.3 C.7.6.16): position and rescale per frame."""
    ds = next(build_frames(series, (stack,)))
    modality, grid = series.study.modality, series.grids[0]
    ds.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{'2.1' if modality == 'CT' else '4.1'}"
    ds.SOPInstanceUID, ds.InstanceNumber = make_uid(series.uid, "enhanced"), 1
    shared, measures, plane, kind = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = ds.PixelSpacing, ds.SliceThickness
    plane.ImageOrientationPatient = ds.ImageOrientationPatient
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    kind.FrameType = ds.ImageType
    for target in (ds, kind):
        target.PixelPresentation, target.VolumetricProperties = "MONOCHROME", "VOLUME"
        target.VolumeBasedCalculationTechnique = "NONE"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    ds.PresentationLUTShape, ds.LossyImageCompression, ds.BurnedInAnnotation = (
        "IDENTITY",
        "00",
        "NO",
    )
    ds.ContentQualification, ds.AcquisitionDuration, ds.AcquisitionContextSequence = (
        "RESEARCH",
        60.0,
        [],
    )
    ds.AcquisitionDateTime = ds.AcquisitionDate + ds.AcquisitionTime
    if modality == "CT":
        shared.CTImageFrameTypeSequence = [kind]
    else:
        _add_enhanced_mr(ds, shared, kind, series.looks[0][0])
    frames, pixels = [], []
    for index, (place, _) in enumerate(list_frames(series)[0]):
        stored, slope, intercept = quantise_frame(series, stack[index])
        stored[find_padding(series, grid)] = (
            -2000 if series.study.vendor.name == "ge" and modality == "CT" else 0
        )
        content, position, values, group = Dataset(), Dataset(), Dataset(), Dataset()
        content.FrameAcquisitionNumber, content.StackID, content.InStackPositionNumber = (
            1,
            "1",
            index + 1,
        )
        content.DimensionIndexValues = [1, index + 1]
        content.FrameAcquisitionDateTime = content.FrameReferenceDateTime = ds.AcquisitionDateTime
        content.FrameAcquisitionDuration = 1000.0
        position.ImagePositionPatient = [f"{v:.8g}" for v in np.round(place, 4)]
        values.RescaleIntercept, values.RescaleSlope = f"{intercept:g}", f"{slope:.8g}"
        values.RescaleType = "HU" if modality == "CT" else "US"
        group.FrameContentSequence, group.PlanePositionSequence = [content], [position]
        group.PixelValueTransformationSequence = [values]
        frames.append(group)
        pixels.append(stored.astype(f"<{stored.dtype.kind}2").tobytes())
    for keyword in ENHANCED_DROPS:
        if keyword in ds:
            delattr(ds, keyword)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.NumberOfFrames, ds.PixelData = len(frames), b"".join(pixels)
    _add_dimensions(ds, series)
    return ds


ENHANCED_DROPS = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocation", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle",
    "EchoTrainLength", "EchoNumbers",
    "ScanningSequence", "SequenceVariant", "ScanOptions", "SequenceName", "AngioFlag",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "NumberOfAverages", "SAR", "PixelBandwidth",
    "GantryDetectorTilt", "KVP", "ConvolutionKernel", "ReconstructionDiameter", "TableHeight",
    "ImagingFrequency",
)  # fmt: skip


def _add_enhanced_mr(ds: Dataset, shared: Dataset, kind: Dataset, scan: Scan) -> None:
    timing, echo, modifier = Dataset(), Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle, timing.EchoTrainLength = (
        ds.RepetitionTime,
        ds.FlipAngle,
        15,
    )
    timing.RFEchoTrainLength, timing.GradientEchoTrainLength = 15, 0
    echo.EffectiveEchoTime = scan.te
    modifier.InversionRecovery = "YES" if scan.ti else "NO"
    if scan.ti:
        modifier.InversionTimes = [scan.ti]
    for target in (ds, kind):
        target.ComplexImageComponent, target.AcquisitionContrast = (
            "MAGNITUDE",
            "T2" if not scan.ti else "FLUID_ATTENUATED",
        )
    shared.MRTimingAndRelatedParametersSequence, shared.MREchoSequence = [timing], [echo]
    shared.MRModifierSequence, shared.MRImageFrameTypeSequence = [modifier], [kind]
    ds.ResonantNucleus, ds.ApplicableSafetyStandardAgency = "1H", "IEC"
    ds.PulseSequenceName, ds.MRAcquisitionType = SEQUENCE_NAMES["siemens"][scan.family], "2D"
    ds.EchoPulseSequence, ds.EchoPlanarPulseSequence = "SPIN", "NO"
    ds.PhaseContrast, ds.TimeOfFlightContrast, ds.SteadyStatePulseSequence = "NO", "NO", "NONE"


def _add_dimensions(ds: Dataset, series: Series) -> None:
    organisation, stack, place = Dataset(), Dataset(), Dataset()
    organisation.DimensionOrganizationUID = make_uid(series.uid, "dimensions")
    for item, tag in ((stack, 0x00209056), (place, 0x00209057)):
        item.DimensionOrganizationUID = organisation.DimensionOrganizationUID
        item.DimensionIndexPointer, item.FunctionalGroupPointer = tag, 0x00209111
    ds.DimensionOrganizationSequence, ds.DimensionIndexSequence = [organisation], [stack, place]


def start_companion(series: Series, sop_class: str, modality: str, number: int) -> Dataset:
    """A new data set of the same patient and study in a series of its own."""
    source, ds = build_header(series), Dataset()
    for keyword in ("SpecificCharacterSet", "StudyDate", "StudyTime", "ContentDate",
        "ContentTime", "AccessionNumber",
                    "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber",
                    "SoftwareVersions",
                    "ReferringPhysicianName", "StudyDescription", "PatientName", "PatientID",
                    "PatientBirthDate",
                    "PatientSex", "StudyInstanceUID", "StudyID", "SeriesDate",
                    "SeriesTime"):  # fmt: skip
        ds[keyword] = source[keyword]
    ds.SOPClassUID, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = sop_class, modality, number, 1
    ds.SeriesInstanceUID = make_uid(series.uid, modality)
    ds.SOPInstanceUID = make_uid(series.uid, modality, 1)
    return ds


def _code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def build_mask(series: Series) -> Dataset:
    """The liver of a CT series as a binary DICOM SEG (PS3.3 C.8.20); empty slices left out."""
    mask, grid = mask_liver(series), series.grids[0]
    ds = start_companion(series, "1.2.840.10008.5.1.4.1.1.66.4", "SEG", 900 + series.number)
    ds.SeriesDescription, ds.ContentLabel, ds.ContentDescription = (
        "Liver mask",
        "LIVER",
        "phantom truth",
    )
    ds.ContentCreatorName, ds.ImageType = "Example^Olga", ["DERIVED", "PRIMARY"]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = series.study.frame_uid, ""
    ds.SegmentationType, ds.LossyImageCompression = "BINARY", "00"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit = 0
    ds.Rows, ds.Columns = grid.shape[1:]
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType = 1, "Liver", "MANUAL"
    segment.SegmentedPropertyCategoryCodeSequence = _code(
        "123037004", "SCT", "Anatomical Structure"
    )
    segment.SegmentedPropertyTypeCodeSequence = _code("10200004", "SCT", "Liver")
    ds.SegmentSequence = [segment]
    shared, measures, plane, which = Dataset(), Dataset(), Dataset(), Dataset()
    spacing = [f"{np.linalg.norm(grid.steps[axis]):.6g}" for axis in (1, 2)]
    measures.PixelSpacing, measures.SliceThickness = spacing, f"{measure_spacing(series):.6g}"
    measures.SpacingBetweenSlices = measures.SliceThickness
    plane.ImageOrientationPatient, which.ReferencedSegmentNumber = write_orientation(grid), 1
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    shared.SegmentIdentificationSequence = [which]
    frames, instances = [], []
    kept = [k for k in range(len(mask)) if mask[k].any()]
    for index, k in enumerate(kept):
        group, content, position, source, derivation = (Dataset() for _ in range(5))
        content.DimensionIndexValues = [1, index + 1]
        position.ImagePositionPatient = [
            f"{v:.8g}" for v in np.round(list_frames(series)[0][k][0], 4)
        ]
        source.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        source.ReferencedSOPInstanceUID = make_uid(series.uid, k + 1)
        instances.append(Dataset(source))
        source.PurposeOfReferenceCodeSequence = _code(
            "121322", "DCM", "Source image for image processing operation"
        )
        derivation.SourceImageSequence = [source]
        derivation.DerivationCodeSequence = _code("113076", "DCM", "Segmentation")
        group.FrameContentSequence, group.PlanePositionSequence = [content], [position]
        group.DerivationImageSequence = [derivation]
        frames.append(group)
    reference = Dataset()
    reference.SeriesInstanceUID, reference.ReferencedInstanceSequence = series.uid, instances
    ds.ReferencedSeriesSequence = [reference]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.NumberOfFrames = len(frames)
    _add_dimensions(ds, series)
    ds.DimensionIndexSequence[0].DimensionIndexPointer = 0x0062000B
    ds.DimensionIndexSequence[0].FunctionalGroupPointer = 0x0062000A
    ds.DimensionIndexSequence[1].DimensionIndexPointer = 0x00200032
    ds.DimensionIndexSequence[1].FunctionalGroupPointer = 0x00209113
    bits = np.packbits(mask[kept].ravel(), bitorder="little").tobytes()
    ds.PixelData = bits + b"\0" * (len(bits) % 2)
    ds["PixelData"].VR = "OB"
    return ds


def build_report(series: Series) -> Dataset:
    """A basic text SR of the study, naming the patient in its text as reports do (PS3.3 A.35.1)."""
    ds = start_companion(series, "1.2.840.10008.5.1.4.1.1.88.11", "SR", 990)
    ds.SeriesDescription, ds.CompletionFlag, ds.VerificationFlag = (
        "Report",
        "COMPLETE",
        "UNVERIFIED",
    )
    ds.ReferencedPerformedProcedureStepSequence, ds.PerformedProcedureCodeSequence = [], []
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = _code("18748-4", "LN", "Diagnostic Imaging Report")
    text = Dataset()
    text.RelationshipType, text.ValueType = "CONTAINS", "TEXT"
    text.ConceptNameCodeSequence = _code("121071", "DCM", "Finding")
    text.TextValue = f"Phantom report of {series.study.name.replace('^', ' ')}: made of ellipsoids."
    ds.ContentSequence = [text]
    return ds


def encode_dataset(ds: Dataset, syntax: str) -> bytes:
    """The DICOM file (PS3.10) of a data set with little endian pixels, in a transfer syntax."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    meta.TransferSyntaxUID = SYNTAXES[syntax]
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID("2.25.1704"), "RADNET_PHANTOM"
    ds.file_meta = meta
    pixels = ds.get("PixelData")
    if syntax == "big" and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(pixels, "<u2").astype(">u2").tobytes()
    elif syntax == "rle":
        meta.TransferSyntaxUID = SYNTAXES["explicit"]
        ds.compress(RLELossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        ds,
        enforce_file_format=True,
        little_endian=syntax != "big",
        implicit_vr=syntax == "implicit",
    )
    if syntax == "rle":
        ds.PixelData = pixels
        ds["PixelData"].is_undefined_length = False
    return buffer.getvalue()


def strip_preamble(data: bytes, syntax: str) -> bytes:
    """A file as old software left it: no preamble, and in implicit VR no meta group either."""
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :] if syntax == "implicit" else data[132:]


def name_file(series: Series, number: int) -> Path:
    """Where the vendor's export puts the frame; some paths hold the patient's name."""
    study = series.study
    who = study.name.replace("^", "_").upper() + "_" + study.patient_id
    order, slug = series.number, "".join(c if c.isalnum() else "_" for c in series.text) or "series"
    style = study.vendor.name
    if style == "siemens":
        day = study.day.strftime("%Y%m%d")
        name = f"{study.patient_id}.{study.modality}.{order:04d}.{number:04d}.IMA"
        return Path(style, who, f"{day}_{study.region}", f"{slug}_{order:04d}", name)
    if style == "ge":
        return Path(
            style,
            f"p{study.patient_id[-5:]}",
            f"e{study.uid[-5:]}",
            f"s{order}",
            f"i{number:05d}.MRDC.{number}",
        )
    if style == "philips":
        folder = f"{study.patient_id}_{study.region}"
        return Path(style, folder, "DICOM", f"SE{order:06d}", f"IM{number:06d}")
    if style == "canon":
        return Path(style, study.uid, series.uid, f"{number:05d}.dcm")
    return Path(
        style, who, f"{study.region} {study.modality}", f"{order:03d} {slug}", f"{number:05d}.dcm"
    )


def build_directory(study: Study, entries: list[tuple[Series, str, str, Path]]) -> bytes:
    """A DICOMDIR of one study (PS3.3 F.5); entries: series, SOP class, SOP instance, path."""
    ds, records, level = Dataset(), [], []
    ds.FileSetID, ds.FileSetConsistencyFlag = "PHANTOM", 0
    ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    ds.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0

    def add(depth: int, kind: str, **values: object) -> None:
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = (
            record.OffsetOfReferencedLowerLevelDirectoryEntity
        ) = 0
        record.RecordInUseFlag, record.DirectoryRecordType = 0xFFFF, kind
        record.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in values.items():
            setattr(record, keyword, value)
        records.append(record)
        level.append(depth)

    add(0, "PATIENT", PatientName=study.name, PatientID=study.patient_id)
    day = study.day.strftime("%Y%m%d")
    add(
        1,
        "STUDY",
        StudyDate=day,
        StudyTime="080000",
        StudyDescription=study.text,
        StudyInstanceUID=study.uid,
        StudyID="1",
        AccessionNumber="A" + study.uid[-9:],
    )
    last = ""
    for series, sop_class, instance, path in entries:
        if series.uid != last:
            add(
                2,
                "SERIES",
                Modality=study.modality,
                SeriesInstanceUID=series.uid,
                SeriesNumber=series.number,
            )
            last = series.uid
        number = sum(depth == 3 for depth in level) + 1
        add(3, "IMAGE", ReferencedFileID=list(path.parts), ReferencedSOPClassUIDInFile=sop_class,
            ReferencedSOPInstanceUIDInFile=instance,
                ReferencedTransferSyntaxUIDInFile=SYNTAXES[study.syntax],
                    InstanceNumber=number)  # fmt: skip
    ds.DirectoryRecordSequence = records
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.1.3.10", make_uid(study.uid, "DICOMDIR")
    meta_and_records = _encode_directory(ds)
    sizes = []
    for record in records:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, record)
        sizes.append(8 + len(buffer.getvalue()))
    starts = len(meta_and_records) - sum(sizes) + np.cumsum([0, *sizes[:-1]])
    for index, depth in enumerate(level):
        later = [i for i in range(index + 1, len(level)) if level[i] <= depth]
        if later and level[later[0]] == depth:
            records[index].OffsetOfTheNextDirectoryRecord = int(starts[later[0]])
        if index + 1 < len(level) and level[index + 1] > depth:
            records[index].OffsetOfReferencedLowerLevelDirectoryEntity = int(starts[index + 1])
    ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = int(starts[0])
    ds.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = int(starts[0])
    return _encode_directory(ds)


def _encode_directory(ds: Dataset) -> bytes:
    body = Dataset({element.tag: element for element in ds if element.tag.group != 0x0008})
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    meta.TransferSyntaxUID = SYNTAXES["explicit"]
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID("2.25.1704"), "RADNET_PHANTOM"
    body.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, body, enforce_file_format=True)
    return buffer.getvalue()


def write_study(plans: list[Series], files: dict[Path, bytes]) -> list[dict[str, object]]:
    """Encode one study into `files` (path below the archive -> bytes) and return its truth rows."""
    study, rows, entries = plans[0].study, [], []
    masked = False
    for series in plans:
        before, mask_path = len(files), ""
        stacks = render_series(series)
        frames = (
            iter([build_enhanced(series, stacks[0])])
            if series.odd == "enhanced"
            else build_frames(series, stacks)
        )
        # A multi-frame object in RLE would need fragments per frame; it is written plainly.
        syntax = (
            "explicit"
            if series.odd == "enhanced" and study.syntax in ("rle", "big")
            else study.syntax
        )
        for number, ds in enumerate(frames, 1):
            path, data = name_file(series, number), encode_dataset(ds, syntax)
            files[path] = strip_preamble(data, syntax) if series.bare else data
            if series.odd == "copies":
                files[path.parent / "copy" / path.name] = data
            parts = Path(*path.parts[2:]) if study.vendor.name == "philips" else path
            entries.append((series, str(ds.SOPClassUID), str(ds.SOPInstanceUID), parts))
        counts = len(files) - before
        whole = (
            "liver" in REGIONS[study.region].coverage and not series.odd and series.view == "axial"
        )
        if series.sequence == "CT" and whole and not masked:
            mask, masked = build_mask(series), True
            path = name_file(series, 1).parent.with_name("SEG00001") / "SEG00001"
            files[path], mask_path = encode_dataset(mask, "explicit"), path.as_posix()
            rows.append(_describe_companion(series, mask))
        rows.append(_describe_series(series, syntax, counts, mask_path))
    if study.modality == "CT":
        report = build_report(plans[-1])
        files[name_file(plans[-1], 1).parent.with_name("SR000001") / "SR000001"] = encode_dataset(
            report, "explicit"
        )
        rows.append(_describe_companion(plans[-1], report))
    if study.vendor.name == "philips":
        root = Path(*name_file(plans[0], 1).parts[:2])
        files[root / "DICOMDIR"] = build_directory(study, entries)
    return rows


def _describe_series(series: Series, syntax: str, n_files: int, mask: str) -> dict[str, object]:
    study = series.study
    repeats = series.odd in ("dynamic", "siblings", "monitor")
    values = (
        series.uid, study.uid, study.patient_id, study.modality, series.text,
        "LOCALIZER" if series.odd in ("scout", "three_plane") else series.sequence,
        "oblique" if series.odd == "oblique" else series.view, series.post,
        "|".join(list_coverage(series)), repeats,
        len(series.keep), measure_spacing(series), find_exclusion(series), study.vendor.name,
            syntax, n_files, series.odd, mask,
    )  # fmt: skip
    return dict(zip(TRUTH_COLUMNS, values, strict=True))


def _describe_companion(series: Series, ds: Dataset) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(TRUTH_COLUMNS, "")
    row.update(
        SeriesInstanceUID=ds.SeriesInstanceUID,
        StudyInstanceUID=series.study.uid,
        Modality=ds.Modality,
    )
    row.update(PatientID=series.study.patient_id, SeriesDescription=ds.SeriesDescription, n_files=1)
    row.update(excluded_by="not_image", vendor=series.study.vendor.name, transfer_syntax="explicit")
    return row


def zip_files(files: dict[Path, bytes]) -> bytes:
    """A study as a PACS export burns it on a disc, with the viewer's start file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in [
            ("AUTORUN.INF", b"[autorun]\r\n"),
            *((p.as_posix(), d) for p, d in files.items()),
        ]:
            archive.writestr(
                zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()


def phantom(config: PhantomConfig) -> PhantomReport:
    """Write the archive and its truth.

    Raises SettingError if OUT is neither new nor empty, StoreError if it cannot be written.
    """
    out = Path(config.out)
    truth = out.with_name(out.name + ".truth.csv")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError("is not empty", "OUT", "name a new folder")
    rows: list[dict[str, object]] = []
    n_files = 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        for number in range(config.patients):
            plans = plan_patient(config, number)
            for uid in dict.fromkeys(series.study.uid for series in plans):
                part = [series for series in plans if series.study.uid == uid]
                files: dict[Path, bytes] = {}
                rows += write_study(part, files)
                if part[0].study.zipped:
                    files = {Path("exports", f"{part[0].study.patient_id}.zip"): zip_files(files)}
                n_files += len(files)
                for path, data in files.items():
                    (out / path).parent.mkdir(parents=True, exist_ok=True)
                    (out / path).write_bytes(data)
        with truth.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, TRUTH_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise StoreError(
            f"cannot be written: {error.strerror}", "OUT", "check space and permission"
        ) from error
    studies = len({row["StudyInstanceUID"] for row in rows})
    return PhantomReport(config.patients, studies, len(rows), n_files, str(truth))
