"""Tables of regions, sequences, studies and vendors; takes a kind of series, gives its timing.

Words in several languages are in the order of LANGUAGES, separated by "|".
"""

from typing import NamedTuple

import numpy as np

from radnet_lake.phantom.tissue import TISSUES, Acquisition

LANGUAGES = ("English", "German", "French", "Spanish", "Italian", "Polish")
VIEWS: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
"""Directions of the next slice, row and column, LPS."""


class FieldOfView(NamedTuple):
    """Field of view of a study: nominal box (mm), slice spacings (mm), labels, body part, words."""

    half_x: float
    y: tuple[float, float]
    z: tuple[float, float]
    spacing: tuple[float, float]
    coverage: tuple[str, ...]
    part: str
    words: str


_BELLY = ("liver", "kidney")
_BODY = ("liver", "kidney", "intestine", "pelvis")
_HEAD = ("brain", "upper_head_neck", "lower_head_neck")
REGIONS: dict[str, FieldOfView] = {
    "head": FieldOfView(82, (-100, 104), (742, 902), (4.5, 7), _HEAD[:1], "BRAIN",
        "BRAIN|Schädel|ENCEPHALE|CEREBRO|ENCEFALO|GŁOWA"),
    "neck": FieldOfView(95, (-100, 95), (572, 806), (4, 7), _HEAD[1:], "NECK",
        "NECK|Hals|COU|CUELLO|COLLO|SZYJA"),
    "sinus": FieldOfView(75, (-112, 60), (676, 806), (2.5, 4), _HEAD[1:2], "SINUS",
        "SINUS|SINUS|SINUS|SINUS|SINUS|SINUS"),
    "chest": FieldOfView(188, (-118, 122), (290, 596), (5, 8), ("lung",), "CHEST",
        "CHEST|Thorax|THORAX|TORAX|TORACE|KLATKA PIERSIOWA"),
    "breast": FieldOfView(180, (-190, 30), (368, 514), (3, 5), ("breast",), "BREAST",
        "BREAST|Mamma|SEIN|MAMA|MAMMELLA|PIERSI"),
    "abdomen": FieldOfView(172, (-118, 122), (190, 416), (4, 8), _BELLY, "ABDOMEN",
        "ABDOMEN|Oberbauch|ABDOMEN|ABDOMEN|ADDOME|JAMA BRZUSZNA"),
    "renal": FieldOfView(172, (-118, 122), (190, 336), (3, 6), ("kidney",), "KIDNEY",
        "RENAL|Nieren|REINS|RENAL|RENAL|NEREK"),
    "abdpel": FieldOfView(188, (-122, 125), (-42, 416), (5, 10), _BODY, "ABDOMENPELVIS",
        "ABDOMEN PELVIS|Abdomen/Becken|ABDOMEN BASSIN|ABDOMEN Y PELVIS|ADDOME PELVI|"
        "BRZUCH I MIEDNICA"),
    "thab": FieldOfView(190, (-120, 125), (190, 596), (5, 10), ("lung", *_BELLY), "CHESTABDOMEN",
        "CHEST ABDOMEN|Thorax/Oberbauch|THORAX ABDOMEN|TORAX ABDOMEN|TORACE ADDOME|KLATKA BRZUCH"),
    "cap": FieldOfView(190, (-122, 125), (-42, 596), (8, 12), ("lung", *_BODY), "CHESTABDPELVIS",
        "CHEST ABDOMEN PELVIS|Thorax/Abdomen/Becken|THORAX ABDOMEN BASSIN|TORAX ABDOMEN PELVIS|"
        "TORACE ADDOME PELVI|KLATKA BRZUCH MIEDNICA"),
    "whole": FieldOfView(190, (-122, 125), (-130, 905), (10, 12), (*_HEAD, "lung", *_BODY),
        "WHOLEBODY", "WHOLE BODY|Ganzkörper|WHOLE BODY|WHOLE BODY|WHOLE BODY|WHOLE BODY"),
    "pelvis": FieldOfView(186, (-118, 122), (-44, 192), (5, 8), ("pelvis",), "PELVIS",
        "PELVIS|Becken|BASSIN|PELVIS|BACINO|MIEDNICA"),
    "prostate": FieldOfView(95, (-70, 100), (-34, 52), (3, 4.5), ("pelvis",), "PROSTATE",
        "PROSTATE|Prostata|PROSTATE|PROSTATA|PROSTATA|PROSTATA"),
}  # fmt: skip

MODALITY_WORDS = {"MR": "MR|MRT|IRM|RM|RM|MR", "CT": "CT|CT|TDM|TC|TC|TK"}
CT_PHASES = (
    "w/o contrast|nativ|sans injection|sin contraste|senza mdc|bez kontrastu",
    "C+ venous|mit KM|avec injection|con contraste|con mdc|ze wzmocnieniem",
)
AGENTS = {
    "CT": ("Omnipaque 350", "ULTRAVIST 370", "Iomeron", "APPLIED"),
    "MR": ("Gadovist", "DOTAREM", "MultiHance"),
}

STUDIES: dict[str, str] = {
    "CT": """CT coronal pre .5 scout; CT axial pre .5; CT axial post .95; CT coronal post .4;
        CT sagittal post .35; CT coronal pre .2; CT sagittal pre .2; CT axial pre .05 tilt;
        CT axial post .05 missing; CT axial pre .05 copies; CT axial post .05 monitor;
        CT axial pre .05 enhanced; CT axial pre .05 nodesc; CT axial pre .05 feet""",
    "head": """LOC axial pre .5 planes; T1-SE sagittal pre .4; T1-FLAIR sagittal pre .5;
        T1-FLAIR axial pre .65; T1-FLAIR coronal pre .2; T2-SE axial pre .8; T2-SE coronal pre .3;
        T2-SE sagittal pre .15; T2-FLAIR axial pre .8; T2-FLAIR coronal pre .3;
        T2-FLAIR sagittal pre .25; DWI axial pre .2; DWI axial pre .1 two_b; ADC axial pre .2;
        MRA axial pre .1; MRA axial pre .05 mip; T2-SE axial pre .08 nodesc;
        T1-SE axial pre .08 few; T2-FLAIR axial pre .05 flipped; T2-SE axial pre .05 oblique;
        T2-SE axial pre .1 enhanced; RAGE sagittal pre .15; DYN axial post .05 dynamic;
        T1-SE axial post .6; T1-SE coronal post .35; T1-SE sagittal post .25;
        T1-FLAIR axial post .35; T1-FLAIR coronal post .2; T2-FLAIR axial post .15;
        T2-SE coronal post .1""",
    "neck": """LOC axial pre .5 planes; T1-SE axial pre .8; T1-SE coronal pre .5;
        T2-SE axial pre .8; T2-SE sagittal pre .5; STIR coronal pre .6; T1-SE axial post .8;
        T1-SE coronal post .6; T1-SE sagittal post .3; T2-SE axial pre .1 missing""",
    "breast": """LOC axial pre .5 planes; T1-SE axial pre .8; T2-SE axial pre .9;
        T2-SE sagittal pre .4; T2-SE coronal pre .3; STIR axial pre .8; DYN axial post .95 siblings;
        T1-SE axial post .6; T1-SE sagittal post .5; GR axial post .2 mip""",
    "abdomen": """LOC axial pre .5 planes; T2-SE coronal pre .9; T2-SE axial pre .8;
        T1-SE axial pre .6; T1-SE coronal pre .3; GR axial pre .4; GR axial post .5;
        DYN axial post .4 dynamic; T1-SE axial post .7; T1-SE coronal post .6;
        T2-SE axial post .3; DWI axial pre .3""",
    "pelvis": """LOC axial pre .5 planes; T2-SE axial pre .9; T2-SE sagittal pre .9;
        T2-SE coronal pre .6; T1-SE axial pre .7; PD-SE axial pre .2; DWI axial pre .4;
        ADC axial pre .4; T1-SE axial post .7; T1-SE sagittal post .5; GR axial post .3""",
    "prostate": """T2-SE axial pre .95; T2-SE sagittal pre .8; T2-SE coronal pre .8;
        T1-SE axial pre .6; DWI axial pre .4; ADC axial pre .5; DYN axial post .95 siblings;
        T1-SE axial post .4""",
}
"""Series of a study: kind, view, before or after the agent, probability, oddity."""

EXCLUDED = {
    "LOC": "geom", "scout": "geom", "tilt": "geom", "missing": "geom", "monitor": "geom",
    "dynamic": "geom", "two_b": "geom", "few": "few", "nodesc": "nodesc", "DYN": "time",
    "GR": "seq", "RAGE": "seq", "DWI": "seq", "ADC": "seq", "MRA": "seq", "PD-SE": "seq",
    "STIR": "stir", "flipped": "view", "oblique": "view", "feet": "view", "mip": "derived",
}  # fmt: skip
"""Kind or oddity -> reason of its exclusion; the first of EXCLUSION_ORDER counts."""
EXCLUSION_ORDER = (
    "geom", "few", "nodesc", "time", "seq", "stir", "spacing", "view", "derived",
)  # fmt: skip


class Timing(NamedTuple):
    """Parameters of a kind of series: family, ranges of TR and TE (ms), nulled tissue, flip, b."""

    sequence: str
    family: str
    tr: tuple[float, float]
    te: tuple[float, float]
    null: str = ""
    flip: float = 90.0
    b: float = 0.0
    fat_sat: bool = False


TIMINGS: dict[str, Timing] = {
    "T1-SE": Timing("T1-SE", "SE", (420, 620), (8, 15)),
    "T2-SE": Timing("T2-SE", "SE", (3400, 6000), (80, 121)),
    "PD-SE": Timing("PD-SE", "SE", (3400, 6000), (12, 24)),
    "T1-FLAIR": Timing("T1-FLAIR", "IR", (1800, 2400), (8, 22), "csf"),
    "T2-FLAIR": Timing("T2-FLAIR", "IR", (8000, 10100), (100, 141), "csf"),
    "STIR": Timing("STIR", "IR", (3400, 6000), (48, 70), "fat"),
    "RAGE": Timing("GR", "GR", (8, 10), (3, 4), flip=12),
    "GR": Timing("GR", "GR", (4, 6), (2, 3), flip=12, fat_sat=True),
    "DWI": Timing("DWI", "EP", (4900, 7500), (70, 95), b=1000, fat_sat=True),
    "ADC": Timing("ADC", "EP", (4900, 7500), (70, 95), b=1000, fat_sat=True),
    "MRA": Timing("MRA", "GR", (22, 23), (3, 5), flip=20),
    "DYN": Timing("PERFUSION", "GR", (4, 6), (2, 3), flip=12, fat_sat=True),
    "LOC": Timing("LOCALIZER", "GR", (8, 10), (3, 4), flip=12),
    "CT": Timing("CT", "CT", (0, 1), (0, 1)),
}


def draw_acquisition(kind: str, tesla: float, rng: np.random.Generator) -> Acquisition:
    """Kind of series and field strength -> random TR, TE and TI of clinical practice."""
    timing = TIMINGS[kind]
    tr, te = (float(int(rng.uniform(*span))) for span in (timing.tr, timing.te))
    tr += 150 if kind == "T1-SE" and tesla > 2 else 0
    ti = 0.0
    if timing.null:
        t1 = TISSUES[timing.null].t1[int(tesla > 2)]
        ti = t1 * (np.log(2) - np.log(1 + np.exp(-tr / t1))) * rng.uniform(0.95, 1.0)
    return Acquisition(timing.family, tr, te, round(ti), timing.flip, timing.b, timing.fat_sat)


class Vendor(NamedTuple):
    """How one vendor writes headers.

    models: MR and CT. intercept, signed: of stored CT. views: words for VIEWS. agent: words for
    before and after it. scout, loc, kernel: words. names: sequence names of SE, IR, GR, EP.
    b_value: group, creator, element, VR of the private b-value. texts: as TIMINGS.
    """

    name: str
    manufacturer: str
    models: tuple[str, str]
    intercept: int
    signed: bool
    views: str
    agent: tuple[str, str]
    scout: str
    loc: str
    kernel: str
    names: str
    b_value: tuple[int, str, int, str] | None
    texts: str


VENDORS: tuple[Vendor, ...] = (
    Vendor("siemens", "SIEMENS", ("Aera", "SOMATOM Definition AS"), -1024, False, "tra|cor|sag",
        ("_nativ", "_KM"), "Topogram", "localizer", "B31f",
        "*tse2d1_15|*tir2d1_16|*fl3d1|*ep_b1000t", (0x0019, "SIEMENS MR HEADER", 0x0C, "IS"),
        "t1_tse_{v}|t2_tse_{v}|pd_tse_{v}|t1_tirm_{v}_dark-fluid|t2_tirm_{v}_dark-fluid|"
        "t2_stir_{v}|t1_mprage_{v}|t1_vibe_{v}_fs|ep2d_diff_{v}|ep2d_diff_{v}_ADC|TOF_3D_{v}|"
        "t1_fl3d_{v}_dyn"),
    Vendor("ge", "GE MEDICAL SYSTEMS", ("Signa HDxt", "LightSpeed VCT"), -1024, True, "Ax|Cor|Sag",
        (" C-", " +C"), "Scout", "3-PLANE LOC", "STANDARD", "fse-xl|t2flair|efgre3d|epi2",
        (0x0043, "GEMS_PARM_01", 0x39, "IS"),
        "{v} T1 FSE|{v} T2 FRFSE|{v} PD FSE|{v} T1 FLAIR|{v} T2 FLAIR|{v} STIR|{v} 3D BRAVO|"
        "{v} LAVA|{v} DWI|{v} ADC|{v} 3D TOF|Ph{n}/{v} LAVA"),
    Vendor("philips", "Philips Medical Systems", ("Achieva", "Brilliance 64"), -1024, False,
        "TRA|COR|SAG", (" pre Gd", " Gd"), "Surview", "SURVEY", "B", "TSE|TIR|T1FFE|SEEPI",
        (0x2001, "Philips Imaging DD 001", 0x03, "FL"),
        "T1W_TSE_{v}|sT2W_TSE_{v}|PDW_TSE_{v}|T1W_FLAIR_{v}|FLAIR_T2W_{v}|STIR_{v}|T1W_3D_TFE_{v}|"
        "eTHRIVE_{v}|DWI_SSh_{v}|dADC_{v}|TOF_{v}|dyn_eTHRIVE_{v}"),
    Vendor("canon", "CANON_MEC", ("Vantage Titan", "Aquilion ONE"), 0, True, "AX|COR|SAG",
        (" PRE", " POST"), "Surview", "SURVEY", "FC13", "FSE2d|FIR2d|FFE3d|SE_EPI", None,
        "T1 SE {v}|T2 FSE {v}|PD FSE {v}|T1 FLAIR {v}|T2 FLAIR {v}|STIR {v}|MPRAGE {v}|"
        "Quick 3D {v}|DWI {v}|ADC {v}|TOF {v}|DYNAMIC {v}"),
    Vendor("uih", "UIH", ("uMR 780", "uCT 780"), -8192, False, "tra|cor|sag",
        ("_pre ce", "_post gd"), "Surview", "SURVEY", "B_SOFT", "fse|fse_ir|gre_3d|epi_dwi",
        (0x0065, "Image Private Header", 0x09, "FD"),
        "t1_fse_{v}|t2_fse_{v}|pd_fse_{v}|t1_flair_{v}|t2_flair_{v}|stir_fse_{v}|"
        "t1_gre_mprage_{v}|t1_gre_{v}_quick 3d|epi_dwi_{v}|epi_dwi_{v}_ADC|tof_{v}|"
        "t1_quick3d_dyn_{v}"),
)  # fmt: skip
