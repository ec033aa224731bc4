"""What labels rely on: one row per series, with what all its instances say, and its geometry."""

import datetime
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instance_rows import (
    AXIAL,
    CORONAL,
    NOON,
    SAGITTAL,
    Row,
    frame,
    halves,
    part,
    repeat,
    roll,
    rounded,
    shear,
    stack,
    tilt,
    turn,
)

from radnet_lake import schema

FACTS = {
    "slice_count", "slice_spacing_mm", "gap_min_mm", "gap_max_mm", "gap_deviation_mm", "geometry",
    "missing_slice_count", "n_stacks", "stack_frames", "first_position", "last_position",
    "ImageOrientationPatient", "Rows", "Columns", "PixelSpacing", "repeats_min", "repeats_max",
}  # fmt: skip


def test_known_stacks_get_their_verdict() -> None:
    rng = np.random.default_rng(1)
    noise = rng.uniform(-0.004, 0.004, 80)
    cases: dict[str, tuple[list[Row], str]] = {
        "plain": (stack("plain"), "regular"),
        "thin": (stack("thin", 200, 0.625), "regular"),
        "decimal": (rounded(stack("decimal", 200, 1.25), 1), "regular"),
        "oblique": (turn(stack("oblique"), tilt(15)), "regular"),
        "lost": ([r for r in stack("lost") if r["InstanceNumber"] != 17], "missing_slices"),
        "twice": (stack("twice") + stack("twice", 1, z=50, first=99), "partial_duplicates"),
        "six": (repeat("six", 6), "repeated_stack"),
        "noisy": (
            [frame("noisy", [0, 0, -5 * (i % 20) + noise[i]], i) for i in range(80)],
            "repeated_stack",
        ),
        "gantry": (shear(stack("gantry"), 15), "sheared"),
        "planes": (
            [
                frame("planes", [i, 0, 0], 3 * k + i, ImageOrientationPatient=o)
                for k, o in enumerate((AXIAL, CORONAL, SAGITTAL))
                for i in range(3)
            ],
            "mixed_orientation",
        ),
        "one": (stack("one", 1), "single_slice"),
        "slabs": (stack("slabs", 20) + stack("slabs", 20, z=133, first=50), "irregular"),
        "overlap": (stack("overlap", 20) + stack("overlap", 20, z=82, first=50), "irregular"),
        "two steps": (
            stack("two steps", 30) + stack("two steps", 30, 2.5, z=147.5, first=50),
            "missing_slices",
        ),
        "bolus": (stack("bolus", 30, 0.0), "single_location_repeated"),
        "matrix": (halves("matrix", Rows=320), "mixed_matrix"),
        "spacing": (halves("spacing", PixelSpacing=[0.7, 0.7]), "mixed_matrix"),
        "spaces": (halves("spaces", FrameOfReferenceUID="1.8"), "mixed_frame_of_reference"),
        "some spaces": (halves("some spaces", FrameOfReferenceUID=None), "regular"),
        "dense": (stack("dense", 20, 0.08), "invalid_spacing"),
        "far": (stack("far", 20, 60), "invalid_spacing"),
        "small": (stack("small", Rows=16), "invalid_position"),
        "lame": ([*stack("lame", 39), frame("lame", [0, 0], 40)], "invalid_position"),
        "nan": ([*stack("nan", 39), frame("nan", [math.nan, 0, 195], 40)], "invalid_position"),
        "huge": ([*stack("huge", 39), frame("huge", 3 * [1e308], 40)], "invalid_position"),
        "skew": (stack("skew", ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "invalid_position"),
        "count": (stack("count", flags=["frame_count_mismatch"]), "invalid_position"),
        "report": (
            [frame("report", [], object_kind="sr", Modality="SR", ImagePositionPatient=None)],
            "not_image",
        ),
        "frames": (
            [
                r | {"SOPInstanceUID": "1", "InstanceNumber": 1, "frame_number": n}
                for n, r in enumerate(stack("frames"), 1)
            ],
            "regular",
        ),
        "parts": ([r | part(1, 2) for r in stack("parts")], "missing_slices"),
        "all parts": (
            [r | part(1 + n // 20, 2) for n, r in enumerate(stack("all parts"))],
            "regular",
        ),
    }  # fmt: skip
    rolled = roll(*(rows for rows, _ in cases.values()))
    assert {name: rolled[name]["geometry"] for name in cases} == {
        n: v for n, (_, v) in cases.items()
    }
    assert rolled["lost"]["missing_slice_count"] == 1
    assert rolled["gantry"]["shear_deg"] == pytest.approx(15, abs=0.01)
    assert rolled["noisy"]["slice_count"] == 20
    assert rolled["noisy"]["repeats_max"] == 4
    assert rolled["thin"]["slice_spacing_mm"] == pytest.approx(0.625)
    assert rolled["plain"]["first_position"] == [-100, -90, 0]
    assert rolled["plain"]["last_position"] == [-100, -90, 195]
    assert rolled["one"]["slice_spacing_mm"] is None
    assert rolled["frames"]["n_instances"] == 1
    assert rolled["frames"]["n_frames"] == 40
    assert rolled["lame"]["n_invalid_frames"] == 1
    assert rolled["lame"]["slice_count"] == 39


def test_what_differs_between_repeats_names_them() -> None:
    later = {"AcquisitionTime": lambda t: 100.0 + 30 * t}
    number = {"AcquisitionNumber": lambda t: t}
    first = {"Modality": "CT", "AcquisitionNumber": 1, "AcquisitionTime": 1.0}
    second = first | {"AcquisitionNumber": 2, "AcquisitionTime": 9.0}
    kinds = {
        "temporal": repeat("temporal", **later),
        "temporal index": repeat("temporal index", TemporalPositionIndex=lambda t: t + 1),
        "temporal count": repeat("temporal count", NumberOfTemporalPositions=lambda _: 3),
        "cine": repeat("cine", TriggerTime=lambda t: 50.0 * t),
        "diffusion": repeat("diffusion", DiffusionBValue=lambda t: 500.0 * t, **later),
        "diffusion s": repeat("diffusion s", SIEMENS_MR_HEADER_xx0C=lambda t: [500.0 * t]),
        "diffusion ge": repeat("diffusion ge", GEMS_PARM_01_xx39=lambda t: [1e9 + 500 * t, 0]),
        "multi_echo": repeat("multi_echo", 2, EchoTime=lambda t: 12.0 + 80 * t, **later),
        "mapping": repeat("mapping", InversionTime=lambda t: 100.0 + 300 * t, **later),
        "mapping angle": repeat("mapping angle", FlipAngle=lambda t: 5.0 + 10 * t),
        "component": repeat("component", 2, ImageType=lambda t: ["ORIGINAL", "PRIMARY", "MP"[t]]),
        "component c": repeat("component c", 2, ComplexImageComponent=lambda t: f"PHASE {t}"),
        "ct_two_acquisitions": (
            [r | first for r in stack("ct_two_acquisitions", 20)]
            + [r | second for r in stack("ct_two_acquisitions", 20, z=85, first=50)]
        ),
        "temporal ct": repeat("temporal ct", 5, Modality=lambda _: "CT", **number, **later),
        "temporal mr": repeat("temporal mr", 2, **number),
        "multi_stack": repeat("multi_stack", 2, StackID=lambda t: str(t)),
        "unknown_repeat": repeat("unknown_repeat"),
        "temporal echoes": repeat(
            "temporal echoes",
            12,
            EchoTime=lambda t: 12.0 + 80 * (t % 2),
            AcquisitionTime=lambda t: 30.0 * (t // 2),
        ),
    }
    rolled = roll(*kinds.values())
    assert {name: row["repeat_kind"] for name, row in rolled.items()} == {
        name: name.partition(" ")[0] for name in kinds
    }
    salvageable = {name for name, row in rolled.items() if row["is_salvageable"]}
    assert salvageable == {
        "multi_echo",
        "component",
        "component c",
        "ct_two_acquisitions",
        "multi_stack",
    }
    assert all((row["salvage"] is not None) == row["is_salvageable"] for row in rolled.values())
    assert rolled["diffusion"]["b_values"] == [0, 500, 1000]
    assert rolled["diffusion ge"]["b_values"] == [0, 500, 1000]
    assert rolled["multi_echo"]["EchoTime_values"] == [12, 92]
    assert rolled["multi_echo"]["EchoTime"] is None


def test_copies_are_no_repeats() -> None:
    again = [r | {"SOPInstanceUID": f"9.{r['SOPInstanceUID']}"} for r in stack("resent")]
    older = stack("edited", InstanceCreationDate=datetime.date(2020, 1, 1))
    newer = stack("edited", dz=4.0, InstanceCreationDate=datetime.date(2021, 1, 1))
    unnumbered = [r | {"InstanceNumber": None} for r in repeat("unnumbered", 2)]
    cases = {
        "resent": stack("resent") + again,
        "same file": 2 * stack("same file"),
        "one": [*stack("one"), stack("one")[7] | {"SOPInstanceUID": "9.7"}],
        "edited": newer + older,
        "unnumbered": unnumbered,
        "dynamic": 2 * repeat("dynamic", AcquisitionTime=lambda t: 30.0 * t),
    }
    rolled = roll(*cases.values())
    assert {name: (row["geometry"], row["repeat_kind"]) for name, row in rolled.items()} == {
        "resent": ("regular", "copies"),
        "same file": ("regular", "copies"),
        "one": ("regular", "copies"),
        "edited": ("regular", "copies"),
        "unnumbered": ("repeated_stack", "unknown_repeat"),
        "dynamic": ("repeated_stack", "temporal"),
    }
    assert rolled["resent"]["n_frames"] == 80
    assert rolled["resent"]["stack_frames"] == 40
    assert rolled["edited"]["slice_spacing_mm"] == 4
    assert {name for name, row in rolled.items() if "uid_conflict" in row["flags"]} == {"edited"}


def test_split_that_would_rescue_a_series_is_said() -> None:
    scout = [frame("scouted", [0, 0, 0], 99, ImageOrientationPatient=CORONAL, Rows=512)]
    rolled = roll(
        stack("scouted", 60, 0.7) + scout,
        halves("halves", ImageOrientationPatient=CORONAL),
        shear(stack("leaning"), 20),
        [r for r in stack("lost") if r["InstanceNumber"] != 9],
    )
    assert rolled["scouted"]["salvage"] == "keep the largest stack: 60 of 61 frames"
    assert rolled["scouted"]["slice_spacing_mm"] == pytest.approx(0.7)
    assert rolled["scouted"]["Rows"] == 256
    assert "20.0 degrees" in rolled["leaning"]["salvage"]
    assert [name for name, row in rolled.items() if not row["is_salvageable"]] == ["halves", "lost"]


@st.composite
def stacks(draw: st.DrawFn) -> tuple[int, float, np.ndarray, int]:
    """Number, step, rotation, and a seed."""
    drawn = np.array(draw(st.tuples(*(4 * [st.floats(-1, 1)]))))
    quaternion = drawn if np.linalg.norm(drawn) > 0.1 else np.array([1.0, 0, 0, 0])
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    return (
        draw(st.integers(5, 60)),
        draw(st.floats(0.5, 20)),
        rotation,
        draw(st.integers(0, 1 << 30)),
    )


def vary(name: str, n: int, dz: float, rotation: np.ndarray, seed: int) -> dict[str, list[Row]]:
    """Ways to write one valid stack, and (with !) ways to spoil it."""
    rng = np.random.default_rng(seed)
    z, inner = float(rng.uniform(-500, 500)), int(rng.integers(1, n - 1))
    plain = stack(name, n, dz, z)
    x, y, deep = plain[inner]["ImagePositionPatient"]
    numbers = [int(k) for k in rng.permutation(n)]

    def spoil(**attributes: Any) -> list[Row]:
        return turn([*plain[:inner], plain[inner] | attributes, *plain[inner + 1 :]], rotation)

    again = plain[inner] | {"SOPInstanceUID": "9", "InstanceNumber": 999}
    ways = {
        "plain": turn(plain, rotation),
        "reversed": turn(plain[::-1], rotation),
        "shuffled": [turn(plain, rotation)[i] for i in numbers],
        "renumbered": [r | {"InstanceNumber": k} for r, k in zip(plain, numbers, strict=True)],
        "six decimals": rounded(turn(plain, rotation), 6),
        "!removed": turn(plain[:inner] + plain[inner + 1 :], rotation),
        "!doubled": turn([*plain, again], rotation),
        "!along": spoil(ImagePositionPatient=[x, y, deep + 0.4 * dz]),
        "!sideways": spoil(ImagePositionPatient=[x + 2, y - 1, deep]),
        "!turned": spoil(ImageOrientationPatient=CORONAL),
    }
    if dz >= 4:
        ways["one decimal"] = rounded(turn(plain, rotation), 1)
    return ways


@given(st.lists(stacks(), min_size=8, max_size=16))
@settings(max_examples=6, deadline=None)
@pytest.mark.long
def test_valid_stacks_stay_regular_and_spoilt_ones_never_do(drawn: list[Any]) -> None:
    rows, expected = [], {}
    for number, one in enumerate(drawn):
        for way, frames in vary(str(number), *one).items():
            name = f"{number} {way}"
            rows += [row | {"SeriesInstanceUID": name} for row in frames]
            expected[name] = not way.startswith("!")
    rolled = roll(rows)
    assert {name: row["geometry"] == "regular" for name, row in rolled.items()} == expected


@given(st.lists(stacks(), min_size=8, max_size=16))
@settings(max_examples=3, deadline=None)
@pytest.mark.long
def test_plain_and_long_way_say_the_same(drawn: list[Any]) -> None:
    ways = [
        frames for number, one in enumerate(drawn) for frames in vary(str(number), *one).values()
    ]
    named = [[r | {"SeriesInstanceUID": str(n)} for r in frames] for n, frames in enumerate(ways)]
    # An object in parts, all of which are there, may be anything: it goes the long way.
    plain = roll(*named)
    long = roll(*([row | part(1, 1) for row in frames] for frames in named))
    for name, row in plain.items():
        for fact in FACTS:
            wanted, found = row[fact], long[name][fact]
            if isinstance(wanted, float | list):
                assert found == pytest.approx(wanted, abs=1e-6), fact
            else:
                assert found == wanted, fact


def test_words_that_contradict_are_null_and_named() -> None:
    code = {"CodeValue": "T-D1100", "CodingSchemeDesignator": "SRT", "CodeMeaning": "Head"}
    empty = {
        "SeriesDescription": "",
        "empty_keywords": ["SeriesDescription", "EchoTime", "ScanOptions"],
    }
    kinds = [{"ImageType": ["ORIGINAL", "PRIMARY", kind]} for kind in "MP"]
    rolled = roll(
        [
            r | {"AnatomicRegionSequence": [code] if n % 2 else None}
            for n, r in enumerate(stack("one", SeriesDescription="AX T1"))
        ],
        [r | kinds[n % 2] | {"SeriesDescription": f"T{n % 2}"} for n, r in enumerate(stack("two"))],
        [
            r | (empty, {"SeriesDescription": "AX", "EchoTime": 80.0})[n % 2]
            for n, r in enumerate(stack("half"))
        ],
        [r | empty for r in stack("blank")],
        stack("tiles", 2, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]),
        stack("grid", 2, ImageType=["ORIGINAL", "PRIMARY", "M", "VFRAME"]),
        [
            r | {"EchoTime": 80 + n / 10, "RepetitionTime": 500.0 * n}
            for n, r in enumerate(stack("numbers", 4))
        ],
        [
            r | {"flags": [("truncated", "no_preamble")[n % 2]]}
            for n, r in enumerate(stack("flags"))
        ],
        [
            r | {"StudyInstanceUID": f"1.{n % 2}", "PatientID": f"P{n % 2}"}
            for n, r in enumerate(stack("shared"))
        ],
        [r | {"EchoTime": float(r["InstanceNumber"])} for r in stack("many", 40)],
    )
    assert rolled["one"]["SeriesDescription"] == "AX T1"
    assert rolled["one"]["AnatomicRegionSequence"] == [code]
    assert rolled["one"]["varying_keywords"] == []
    assert rolled["two"]["SeriesDescription"] is None
    assert rolled["two"]["varying_keywords"] == ["ImageType", "SeriesDescription"]
    assert rolled["two"]["ImageType"] is None
    assert [name for name, row in rolled.items() if row["mosaic"]] == ["grid", "tiles"]
    assert rolled["two"]["image_types"] == ["ORIGINAL\\PRIMARY\\M", "ORIGINAL\\PRIMARY\\P"]
    assert rolled["half"]["SeriesDescription"] == "AX"
    assert rolled["half"]["empty_keywords"] == ["ScanOptions"]
    assert rolled["blank"]["SeriesDescription"] == ""
    assert rolled["blank"]["empty_keywords"] == ["EchoTime", "ScanOptions", "SeriesDescription"]
    assert rolled["numbers"]["EchoTime"] == pytest.approx(80.15)
    assert rolled["numbers"]["RepetitionTime"] is None
    assert rolled["numbers"]["RepetitionTime_values"] == [0, 500, 1000, 1500]
    assert rolled["numbers"]["varying_keywords"] == ["RepetitionTime"]
    assert rolled["flags"]["flags"] == ["no_preamble", "truncated"]
    assert (rolled["shared"]["n_studies"], rolled["shared"]["n_patients"]) == (2, 2)
    assert rolled["shared"]["StudyInstanceUID"] is None
    assert rolled["many"]["EchoTime_values"] == [float(n) for n in range(1, 33)]


def test_rows_that_say_nothing_or_nonsense_are_still_a_series() -> None:
    nothing = {name: None for name in schema.TABLES["instances"].names}
    hostile = {"SeriesDescription": "'; drop table frame.wanted; --\x00\x1b" + "x" * (1 << 20)}
    wild = {
        "PixelSpacing": [math.inf, math.nan],
        "ImageOrientationPatient": [math.inf, 1e308, -1e308, math.nan, 0.0, 0.0],
        "RepetitionTime": math.nan,
        "EchoTime": 1e308,
        "DiffusionBValue": math.inf,
        "Rows": 2**62,
    }
    rolled = roll(
        [nothing | {"SeriesInstanceUID": "nothing", "harvested_at": NOON}],
        stack("hostile", 3, **hostile),
        [frame("wild", [1e308, -1e308, math.inf], n, **wild) for n in range(3)],
        [frame("short", [1, 2, 3, 4], n, ImageOrientationPatient=[1.0]) for n in range(3)],
        # Frames that all lie differently: the work on them is bounded.
        [r for i in range(600) for r in turn([frame("spun", [0, 0, i], i)], tilt(0.6 * i))],
    )
    assert rolled["nothing"]["geometry"] == "not_image"
    assert rolled["nothing"]["StudyInstanceUID"] == "no-uid/nothing"
    assert rolled["hostile"]["SeriesDescription"] == hostile["SeriesDescription"]
    assert rolled["hostile"]["geometry"] == "regular"
    assert rolled["wild"]["geometry"] == "invalid_position"
    assert rolled["short"]["geometry"] == "invalid_position"
    assert rolled["spun"]["geometry"] == "mixed_orientation"
