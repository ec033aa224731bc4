"""Which frames form the stack, and in what order: on rows as the lake has them."""

import numpy as np
import pytest
from instance_rows import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Row,
    frame,
    halves,
    placed,
    repeat,
    roll,
    rounded,
    shear,
    stack,
    tilt,
    turn,
)

from radnet_lake import schema
from radnet_lake.errors import VolumeError
from radnet_lake.volume import stack as stack_module
from radnet_lake.volume.volume import order_frames


@pytest.mark.parametrize(("orientation", "axis"), [(AXIAL, 2), (CORONAL, 1), (SAGITTAL, 0)])
@pytest.mark.parametrize("turned", [1, -1])
def test_slices_run_to_the_left_the_back_and_the_head(
    orientation: list[float], axis: int, turned: int
) -> None:
    # Rows from right to left, or from left to right: the normal turns with them.
    orientation = [turned * c for c in orientation[:3]] + orientation[3:]
    rows = []
    for n, place in enumerate(np.random.default_rng(0).permutation(30)):
        position = [7.0, 8.0, 9.0]
        position[axis] = 3.0 * place - 40
        rows.append(frame("1", position, n, ImageOrientationPatient=orientation))
    places = [f.ImagePositionPatient[axis] for f in order_frames(placed(rows))]  # type: ignore[index]
    assert places == sorted(places)
    assert len(places) == 30


def test_a_slice_halfway_between_two_planes_has_one_order() -> None:
    half = turn(stack("1", 20), tilt(45.0))
    jittered = [
        row | {"ImageOrientationPatient": [c + 1e-6 for c in row["ImageOrientationPatient"]]}
        for row in half
    ]
    for rows in (half, jittered):
        heights = [f.ImagePositionPatient[2] for f in order_frames(placed(rows))]  # type: ignore[index]
        assert heights == sorted(heights)


def scout(series: str) -> list[Row]:
    return [frame(series, [0, 0, 0], 99, ImageOrientationPatient=CORONAL, Rows=300)]


def again(rows: list[Row], keyword: str) -> list[Row]:
    return rows + [row | {keyword: f"{row[keyword]}.9"} for row in rows]


STACKS: dict[str, list[Row]] = {
    "plain": stack("plain", 17, 3.3, z=-11.0),
    "turned": turn(stack("turned", 30, 1.7), tilt(33.0)),
    "rounded": rounded(turn(stack("rounded", 40, 2.37), tilt(12.0)), 1),
    "sheared a little": shear(stack("sheared a little"), 2.0),
    "scout": stack("scout", 30) + scout("scout"),
    "report": [*stack("report", 30), frame("report", [0, 0, 0], 77, object_kind="sr")],
    "no space": halves("no space") + stack("no space", 9, z=200, first=50, FrameOfReferenceUID=""),
    "near spacing": stack("near spacing", 20)
    + stack("near spacing", 20, z=100, first=21, PixelSpacing=[0.5002, 0.5]),
    "acquisitions": halves("acquisitions", AcquisitionNumber=3),
    "file twice": again(stack("file twice", 20), "uri"),
    "slice in two objects": again(stack("slice in two objects", 20), "SOPInstanceUID"),
    "some twice": stack("some twice", 20) + stack("some twice", 3),
    "multi-frame": [
        row | {"frame_number": n, "SOPInstanceUID": "1.5"}
        for n, row in enumerate(stack("multi-frame"), 1)
    ],
}


@pytest.fixture(scope="module")
def rolled() -> dict[str, Row]:
    return roll(*STACKS.values())


@pytest.mark.parametrize("name", STACKS)
def test_order_agrees_with_what_labelling_measured(name: str, rolled: dict[str, Row]) -> None:
    frames = placed(STACKS[name])
    ordered = order_frames([frames[i] for i in np.random.default_rng(2).permutation(len(frames))])
    assert len(ordered) == rolled[name]["slice_count"]
    first, last = (np.array(f.ImagePositionPatient) for f in (ordered[0], ordered[-1]))
    o = np.array(ordered[0].ImageOrientationPatient)
    spacing = (last - first) @ np.cross(o[:3], o[3:]) / (len(ordered) - 1)
    assert spacing == pytest.approx(rolled[name]["slice_spacing_mm"], abs=1e-4)


def test_tolerances_are_those_of_labelling() -> None:
    names = (
        "unit_length_tolerance", "right_angle_tolerance", "orientation_tolerance",
        "pixel_spacing_tolerance", "merge_distance_mm", "max_stack_orientations",
    )  # fmt: skip
    lines = (schema.SQL_DIR / "thresholds.csv").read_text(encoding="utf-8").splitlines()
    stated = {line.split(",")[0]: float(line.split(",")[1]) for line in lines[1:]}
    assert {n: getattr(stack_module, n.upper()) for n in names} == {n: stated[n] for n in names}


def test_of_a_file_written_twice_the_newest_counts() -> None:
    old = [row | {"uri": "old", "InstanceCreationTime": 60.0} for row in stack("1", 9)]
    new = [row | {"uri": "new", "InstanceCreationTime": 61.0} for row in stack("1", 9)]
    for rows in (old + new, new + old):
        assert {f.uri for f in order_frames(placed(rows))} == {"new"}
    broken_off = [row | {"flags": ["truncated"]} for row in new]
    assert {f.uri for f in order_frames(placed(old + broken_off))} == {"old"}


def test_objects_without_a_uid_are_never_taken_for_copies() -> None:
    rows = [row | {"SOPInstanceUID": ""} for row in stack("1", 12)]
    assert len(order_frames(placed(rows))) == 12


def test_several_frames_at_a_place_are_refused_or_the_first_is_taken() -> None:
    rows = repeat("1", 3, 20, TemporalPositionIdentifier=lambda t: 3 - t)
    with pytest.raises(VolumeError, match="several_frames_at_a_place: 20 of 20 places"):
        order_frames(placed(rows))
    loose = order_frames(placed(rows), strict=False)
    assert [f.TemporalPositionIdentifier for f in loose] == [1] * 20
    assert [f.ImagePositionPatient[2] for f in loose] == [5.0 * k for k in range(20)]  # type: ignore[index]


@pytest.mark.parametrize(
    "spoiled",
    [
        {"ImagePositionPatient": None},
        {"ImagePositionPatient": [0.0, 1.0]},
        {"ImagePositionPatient": [0.0, 1.0, float("nan")]},
        {"ImageOrientationPatient": [1.0, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [0.0] * 6},
        {"ImageOrientationPatient": [0.5, 0, 0, 0, 0.5, 0]},
        {"PixelSpacing": None},
        {"PixelSpacing": [0.5, 0.0]},
        {"object_kind": "sr"},
        {"has_pixel_data": False},
    ],
)
def test_frames_that_cannot_be_placed_are_left_out(spoiled: Row) -> None:
    rows = stack("1", 9)
    assert len(order_frames(placed(rows + [row | spoiled for row in stack("1", 30, z=500)]))) == 9
    with pytest.raises(VolumeError, match="no_frames: none of 9"):
        order_frames(placed([row | spoiled for row in rows]))
