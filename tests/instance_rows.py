"""Rows of `instances` that tests make: frames, stacks, and ways to spoil them."""

import datetime
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from radnet_lake import schema
from radnet_lake.label.rollup import open_task, roll_up
from radnet_lake.volume.frame import FRAME_COLUMNS, Frame

Row = dict[str, Any]
AXIAL = [1.0, 0, 0, 0, 1, 0]
CORONAL = [1.0, 0, 0, 0, 0, -1]
SAGITTAL = [0.0, 1, 0, 0, 0, -1]
MR = "1.2.840.10008.5.1.4.1.1.4"
NOON = datetime.datetime(2026, 1, 1, 12)


def frame(series: str, position: list[float], number: int = 1, **attributes: Any) -> Row:
    row = {
        "SeriesInstanceUID": series,
        "StudyInstanceUID": "1.2",
        "PatientID": "P1",
        "SOPInstanceUID": f"{series}.{number}",
        "SOPClassUID": MR,
        "Modality": "MR",
        "object_kind": "image",
        "harvested_at": NOON,
        "uri": f"/in/{series}/{number}.dcm",
        "InstanceNumber": number,
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [float(x) for x in position],
        "PixelSpacing": [0.5, 0.5],
        "Rows": 256,
        "Columns": 256,
        "SamplesPerPixel": 1,
        "FrameOfReferenceUID": "1.9",
    }
    return row | attributes


def stack(
    series: str, n: int = 40, dz: float = 5.0, z: float = 0.0, **attributes: Any
) -> list[Row]:
    """Axial frames, dz mm apart, from z on."""
    first = attributes.pop("first", 1)
    return [frame(series, [-100, -90, z + dz * i], first + i, **attributes) for i in range(n)]


def roll(*rows: list[Row]) -> dict[str, Row]:
    """Series -> its row of the roll-up."""
    table = pa.Table.from_pylist([r for part in rows for r in part], schema.TABLES["instances"])
    with open_task(1) as connection:
        connection.register("rows", table)
        connection.execute("create view instances as from rows")
        rolled = roll_up(connection, table.select(["SeriesInstanceUID"]))
    return {row["SeriesInstanceUID"]: row for row in rolled.to_pylist()}


def turn(rows: list[Row], rotation: np.ndarray) -> list[Row]:
    """The same stack in another direction."""
    turned = []
    for row in rows:
        o = np.array(row["ImageOrientationPatient"]).reshape(2, 3) @ rotation.T
        p = rotation @ np.array(row["ImagePositionPatient"])
        turned.append(
            row
            | {"ImageOrientationPatient": o.ravel().tolist(), "ImagePositionPatient": p.tolist()}
        )
    return turned


def tilt(degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def shear(rows: list[Row], degrees: float) -> list[Row]:
    """The gantry leans, the table goes on along z."""
    o = np.array(AXIAL).reshape(2, 3) @ tilt(degrees).T
    return [row | {"ImageOrientationPatient": o.ravel().tolist()} for row in rows]


def part(number: int, total: int) -> Row:
    """Of an object in parts."""
    names = ("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber")
    return dict(zip(names, ("1.7", number, total), strict=True))


def halves(series: str, **attributes: Any) -> list[Row]:
    """One regular stack whose upper half has other attributes."""
    return stack(series, 20) + stack(series, 20, z=100, first=21, **attributes)


def repeat(series: str, times: int = 3, n: int = 20, **values: Callable[[int], Any]) -> list[Row]:
    """`times` stacks at one place; values: attribute -> its value in stack t."""
    return [
        row
        for t in range(times)
        for row in stack(series, n, first=1 + n * t, **{k: v(t) for k, v in values.items()})
    ]


def rounded(rows: list[Row], decimals: int) -> list[Row]:
    return [
        row | {"ImagePositionPatient": [round(x, decimals) for x in row["ImagePositionPatient"]]}
        for row in rows
    ]


def to_frames(rows: Sequence[Row]) -> list[Frame]:
    return [Frame(**{name: row.get(name) for name in FRAME_COLUMNS}) for row in rows]


def placed(rows: Sequence[Row]) -> list[Frame]:
    return to_frames([{"has_pixel_data": True, **row} for row in rows])
