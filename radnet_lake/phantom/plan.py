"""Takes settings and a patient's number, gives the plan of the studies and series, then the pixels.

Equal settings give equal plans. Names, dates and places are invented, to test de-identification.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from radnet_lake.errors import SettingError
from radnet_lake.phantom import protocol, tissue
from radnet_lake.phantom.anatomy import build_patient
from radnet_lake.phantom.protocol import (
    EXCLUDED,
    REGIONS,
    TIMINGS,
    VENDORS,
    VIEWS,
    Vendor,
    draw_acquisition,
)
from radnet_lake.phantom.shape import Grid, Patient, Vector, paint_labels, turn_axes
from radnet_lake.phantom.tissue import Acquisition, Array

SYNTAX_CYCLE = ("explicit", "implicit", "deflated", "explicit", "big", "implicit", "rle")
HABITS = ("named", "named", "everywhere", "empty", "none_word", "text_only")
"""How a site fills ContrastBolusAgent before and after injection."""
NAMES = (
    "Mustermann^Max", "Musterfrau^Erika", "Public^John", "Doe^Jane", "Fulano^Beltrán",
    "Dupont-Exemple^Marie", "Przykładowy^Jan", "Rossi-Esempio^Carla",
)  # fmt: skip
BODY_CT = ("abdpel", "chest", "cap", "abdomen", "thab", "renal", "abdpel", "cap")
SLICES = {"few": 12, "planes": 3, "scout": 1, "monitor": 1}
MAX_SLICES = 56


@dataclass(frozen=True)
class PhantomConfig:
    """Settings of the phantom archive."""

    out: str = field(metadata={"positional": "OUT"})
    """folder to write; must be empty or new. The truth is written beside it, to OUT.truth.csv"""
    patients: int = 4
    """digital patients; four include every oddity"""
    seed: int = 0
    """same seed and settings, same bytes"""
    size: int = 128
    """rows and columns of a typical image, 32 to 512"""
    only: str = ""
    """masks: only the CT series that have a mask of the liver, and the masks (default: all)"""

    def __post_init__(self) -> None:
        if not self.out:
            raise SettingError("no folder is named", "OUT", "name a new folder")
        if self.patients < 1:
            raise SettingError(f"{self.patients} is too few", "--patients", "give 1 or more")
        if not 0 <= self.seed < 2**63:
            raise SettingError(f"{self.seed} is out of range", "--seed", "give 0 or more")
        if not 32 <= self.size <= 512:
            raise SettingError(f"{self.size} is out of range", "--size", "give 32 to 512")
        if self.only not in ("", "masks"):
            raise SettingError(f"{self.only!r} is unknown", "--only", "give masks, or leave it out")


class Study(NamedTuple):
    """One study on one scanner. offset: position of the patient on the table, mm.

    language: index into LANGUAGES. disc: empty, or the kind of export: folder (with DICOMDIR), zip.
    """

    uid: str
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
    offset: Vector
    text: str
    disc: str


class Series(NamedTuple):
    """One planned series. Frames are ordered by grid, scan, slice.

    kind: a key of TIMINGS. scans: timing and agent level of each time point or b-value.
    slices: indices that were stored. noise: HU. oddity: what is unusual, or empty.
    """

    study: Study
    uid: str
    number: int
    kind: str
    sequence: str
    view: str
    post: bool
    oddity: str
    text: str
    grids: tuple[Grid, ...]
    scans: tuple[tuple[Acquisition, float], ...]
    slices: tuple[int, ...]
    noise: float
    seed: int
    lacks_preamble: bool


def make_uid(*parts: object) -> str:
    """Parts -> UID under 2.25 that depends on them only (PS3.5 B.2)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def plan_patient(config: PhantomConfig, number: int) -> list[Series]:
    """Number of a patient -> its series: a brain MR, a body CT, and up to two more studies."""
    rng = np.random.default_rng([config.seed, number])
    patient = build_patient(rng, "F" if number % 2 else "M", int(rng.integers(20, 85)))
    kinds = [("MR", "head"), ("CT", BODY_CT[(number + int(rng.integers(0, 2))) % len(BODY_CT)])]
    extra = (("prostate",), ("breast",), ("neck", "abdomen"), ("pelvis", "abdomen"))[number % 4]
    if number % 4 < 2 or rng.random() < 0.8:
        kinds.append(("MR", str(rng.choice(extra))))
    if number % 8 == 3 or rng.random() < 0.4:
        other = str(rng.choice(["neck", "head", "sinus", "head"]))
        kinds.append(("CT", "whole" if number % 8 == 3 else other))
    plans: list[Series] = []
    for index, (modality, region) in enumerate(kinds):
        study = _plan_study(config, number, index, patient, (modality, region), rng)
        plans += _plan_series(config, number, study, rng)
    return plans


def _plan_study(
    config: PhantomConfig, number: int, index: int, patient: Patient, kind: tuple[str, str],
    rng: np.random.Generator,
) -> Study:  # fmt: skip
    modality, region = kind
    counter = 3 * number + index
    language = int(rng.integers(0, len(protocol.LANGUAGES)))
    words = (protocol.MODALITY_WORDS[modality], REGIONS[region].words)
    return Study(
        uid=make_uid(config.seed, "study", number, index),
        patient_id=f"PH{config.seed:04d}{number:05d}",
        name=f"{NAMES[number % len(NAMES)]}{'' if number < len(NAMES) else number}",
        patient=patient,
        modality=modality,
        region=region,
        vendor=VENDORS[(counter + number // 5) % len(VENDORS)],
        tesla=float(rng.choice([1.5, 3.0])),
        syntax=SYNTAX_CYCLE[counter % len(SYNTAX_CYCLE)],
        habit=str(rng.choice(HABITS)),
        agent=str(rng.choice(protocol.AGENTS[modality])),
        language=language,
        day=date(2015, 1, 1) + timedelta(days=int(rng.integers(0, 3000))),
        birth=date(2015 - patient.age, 1, 1) + timedelta(days=int(rng.integers(0, 365))),
        offset=np.round(rng.uniform(-30, 30, 3) - np.array([0, 0, 800 * rng.random()]), 1),
        text=" ".join(word.split("|")[language] for word in words),
        disc={(0, 2): "folder", (2, 0): "zip"}.get((number % 4, index), ""),
    )


def _plan_series(
    config: PhantomConfig, number: int, study: Study, rng: np.random.Generator
) -> list[Series]:
    is_ct = study.modality == "CT"
    with_agent = rng.random() < (0.65 if is_ct else 0.75)
    plans: list[Series] = []
    for index, line in enumerate(protocol.STUDIES["CT" if is_ct else study.region].split(";")):
        words = [*line.split(), ""][:5]
        kind, _, phase, chance, oddity = words
        # Every fourth patient always has a given oddity, so that four patients have them all.
        forced = (oddity or kind in EXCLUDED) and (number + index) % 4 == 0 and oddity != "siblings"
        certain = forced or (is_ct and not with_agent and index == 1)
        if rng.random() > float(chance) and not certain:
            continue
        if phase == "post" and not (with_agent or forced):
            continue
        if oddity == "tilt" and study.region in ("cap", "thab", "abdpel", "renal", "whole"):
            continue
        first = _plan_one(config, study, words, rng)
        for time in range(5 if oddity == "siblings" else 1):
            text, scans = first.text.replace("{n}", str(time + 1)), first.scans
            if oddity == "siblings":
                text += "" if study.vendor.name == "ge" else f" {time + 1}"
                scans = ((scans[0][0], 0.3 * time),)
            plans.append(
                first._replace(
                    uid=make_uid(study.uid, index, time),
                    number=len(plans) + 1,
                    text=text,
                    scans=scans,
                    seed=int(rng.integers(2**31)),
                    lacks_preamble=number % 4 == 3 and not is_ct and not plans,
                )
            )
    return plans


def _plan_one(
    config: PhantomConfig, study: Study, words: list[str], rng: np.random.Generator
) -> Series:
    kind, view, phase, _, oddity = words
    views = tuple(VIEWS) if oddity == "planes" else (view,)
    grids = tuple(_plan_grid(config, study, plane, oddity, rng) for plane in views)
    scan, depth, post = draw_acquisition(kind, study.tesla, rng), grids[0].shape[0], phase == "post"
    scans: tuple[tuple[Acquisition, float], ...] = ((scan, 1.0 if post else 0.0),)
    if oddity in ("dynamic", "monitor"):
        scans = tuple((scan, level) for level in (0.0, 0.5, 1.0, 0.9))
    elif oddity == "two_b":
        scans = ((scan._replace(b=0), 0.0), (scan, 0.0))
    lost = (depth // 2, depth // 2 + 1) if oddity == "missing" else ()
    slices = tuple(k for k in range(depth) if k not in lost)
    sequence = {"mip": "DERIVED", "scout": "LOCALIZER"}.get(oddity, TIMINGS[kind].sequence)
    noise = float(rng.uniform(5, 16))
    series = Series(
        study, "", 0, kind, sequence, view, post, oddity, "", grids, scans, slices, noise, 0, False
    )
    return series._replace(text=_write_text(series))


def _plan_grid(
    config: PhantomConfig, study: Study, view: str, oddity: str, rng: np.random.Generator
) -> Grid:
    region, scale = REGIONS[study.region], np.array(study.patient.scale)
    low = np.array([-region.half_x, region.y[0], region.z[0]]) * scale
    high = np.array([region.half_x, region.y[1], region.z[1]]) * scale
    steps = np.array(VIEWS[view])
    extent = np.abs(steps) @ (high - low)
    max_depth = 16 if oddity in ("dynamic", "two_b", "siblings") else MAX_SLICES
    spacing = round(float(rng.uniform(*region.spacing)), 1)
    depth = int(np.clip(np.ceil(extent[0] / spacing), 16, max_depth))
    spacing = max(spacing, round(float(extent[0]) / depth, 2))
    depth = SLICES.get(oddity, depth)
    matrix, narrow = int(config.size * rng.choice([0.8125, 1.0, 1.125])), 1.0
    if view == "axial" and rng.random() < 0.3 and extent[2] > extent[1]:
        narrow = 0.875
    if oddity == "planes":
        matrix, narrow, spacing, extent[1:] = config.size, 1.0, 20.0, (high - low).max()
    field = float(max(extent[1] / narrow, extent[2]) * rng.uniform(1.04, 1.16))
    pixel = round(field / matrix, 4)
    tilt = {"oblique": 45.0, "tilt": 15.0}.get(oddity, 0.0)
    leaning = study.region in ("head", "prostate") and view != "sagittal"
    if leaning and not tilt and oddity != "planes":
        tilt = round(float(rng.uniform(-14, 14)), 1)
    if oddity == "flipped":
        steps = steps * np.array([[1], [-1], [-1]])
    elif oddity == "feet":
        steps = np.array([(0, 0, -1), (0, 1, 0), (-1, 0, 0)])
    steps = steps @ turn_axes((tilt, 0, 0))
    if oddity == "tilt":  # the table moves along z while the gantry is tilted
        steps[0] = VIEWS[view][0]
    steps = np.round(steps, 6) * np.array([[spacing], [pixel], [pixel]])
    shape = (depth, int(matrix * narrow), matrix)
    middle = (low + high) / 2 + rng.uniform(-4, 4, 3)
    return Grid(np.round(middle - (np.array(shape) - 1) / 2 @ steps, 3), steps, shape)


def _write_text(series: Series) -> str:
    study, vendor, kind, oddity = series.study, series.study.vendor, series.kind, series.oddity
    fixed = {"nodesc": "", "planes": vendor.loc, "scout": vendor.scout, "monitor": "Monitoring"}
    if oddity in fixed:
        return fixed[oddity]
    word = vendor.views.split("|")[list(VIEWS).index(series.view)]
    if kind == "CT":
        silent = study.habit == "named" and not series.post
        phase = "" if silent else protocol.CT_PHASES[series.post].split("|")[study.language] + " "
        name = REGIONS[study.region].words.split("|")[study.language]
        reformat = "" if series.view == "axial" else f" MPR {word}"
        return f"{name} {phase}{measure_spacing(series):.1f} {vendor.kernel}{reformat}"
    text = vendor.texts.split("|")[list(TIMINGS).index(kind)].replace("{v}", word)
    if oddity == "dynamic":
        text = text.replace("Ph{n}/", "Multiphase ")
    is_t1 = kind in ("T1-SE", "T1-FLAIR", "GR", "RAGE")
    if oddity != "siblings" and (series.post or (is_t1 and study.habit in ("everywhere", "empty"))):
        text += vendor.agent[series.post]
    return f"{text} MIP" if oddity == "mip" else text


def list_frames(series: Series) -> list[list[tuple[Vector, int]]]:
    """Series -> per grid, position (LPS mm, with the table offset) and scan index of each frame."""

    def place_frames(grid: Grid) -> Iterator[tuple[Vector, int]]:
        for index in range(len(series.scans)):
            for k in series.slices:
                yield grid.origin + k * grid.steps[0] + series.study.offset, index

    return [list(place_frames(grid)) for grid in series.grids]


def measure_spacing(series: Series) -> float:
    """Series -> distance of neighbouring slices along their normal, mm."""
    steps = series.grids[0].steps
    normal = np.cross(steps[2], steps[1])
    return round(abs(float(steps[0] @ normal)) / float(np.linalg.norm(normal)), 4)


def find_exclusion(series: Series) -> str:
    """Series -> its first reason in EXCLUSION_ORDER; empty for a series that is not excluded."""
    reasons = {EXCLUDED.get(series.oddity), EXCLUDED.get(series.kind)}
    # A volume is resized to 48 slices; more than 15 mm between those excludes it.
    if measure_spacing(series) * max(len(series.slices), 48) / 48 > 15:
        reasons.add("spacing")
    return next((reason for reason in protocol.EXCLUSION_ORDER if reason in reasons), "")


def find_masked(plans: list[Series]) -> Series | None:
    """Series of a study -> the one that gets a mask of the liver, or None."""
    for series in plans:
        plain = series.kind == "CT" and series.view == "axial" and not series.oddity
        if plain and "liver" in list_coverage(series):
            return series
    return None


def list_coverage(series: Series) -> tuple[str, ...]:
    """Series -> coverage labels of its region; none for a series of a part of it."""
    partial = series.oddity in ("scout", "monitor", "few", "planes")
    return () if partial else REGIONS[series.study.region].coverage


def render_series(series: Series) -> tuple[Array, ...]:
    """Series -> its pixels before quantisation: HU, MR signal, or ADC in 1e-6 mm2/s.

    One array (scans * slices, H, W) per grid, in the order of `list_frames`.
    """
    study, stacks = series.study, []
    for grid in series.grids:
        labels = paint_labels(study.patient, grid)[list(series.slices)]
        images = []
        for index, (scan, agent) in enumerate(series.scans):
            rng = np.random.default_rng([series.seed, index])
            if study.modality == "CT":
                image = tissue.simulate_ct(labels, agent, series.noise, rng)
            elif series.kind == "ADC":
                image = tissue.map_diffusion(labels, rng)
            else:
                image = tissue.simulate_mr(labels, scan, study.tesla, agent, rng)
            if series.oddity == "mip":
                image = np.stack([image[max(0, k - 3) : k + 4].max(0) for k in range(len(image))])
            images.append(image)
        stacks.append(np.concatenate(images))
    return tuple(stacks)


def mask_liver(series: Series) -> npt.NDArray[np.bool_]:
    """Series -> True in the liver with its vessels and lesions, (D, H, W) on its first grid."""
    labels = paint_labels(series.study.patient, series.grids[0])[list(series.slices)]
    return np.isin(labels, [tissue.CODES[name] for name in tissue.LIVER_TISSUES])
