"""Heads of the network: reads sql/classes.csv, gives name, kind and classes of each output."""

import csv
from typing import NamedTuple

from radnet_lake import schema
from radnet_lake.errors import LakeError

KINDS = ("single", "multi", "scalar")


class Head(NamedTuple):
    """One output of the network: its label, its kind, and its classes in the order of their index.

    kind: single, one class at a time (softmax); multi, each class yes or no (sigmoid); scalar, one
    number (linear).
    """

    name: str
    kind: str
    classes: tuple[str, ...]


def read_heads() -> tuple[Head, ...]:
    """sql/classes.csv -> its heads, in their order. Raises LakeError that names a wrong head."""
    path = schema.SQL_DIR / "classes.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["head"], []).append(row)
    heads = []
    for name, some in groups.items():
        kind = some[0]["kind"]
        numbered = [row["index"] for row in some] == [str(n) for n in range(len(some))]
        alike = kind in KINDS and all(row["kind"] == kind for row in some)
        if not numbered or not alike or (kind == "scalar" and len(some) > 1):
            remedy = (
                "its indices run 0, 1, 2, ... in order, its kind is the same in each row, one of "
                f"{', '.join(KINDS)}, and a scalar has one row"
            )
            raise LakeError(f"the head {name} is wrong", path.name, remedy)
        heads.append(Head(name, kind, tuple(row["value"] for row in some)))
    return tuple(heads)
