"""The network's outputs, as sql/classes.csv lists them: heads, losses and metrics follow `kind`."""

import csv
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from radnet_lake import schema
from radnet_lake.errors import LakeError

KINDS = ("single", "multi", "scalar")


class Head(NamedTuple):
    """One output: of which label, of which kind, with which classes, in the order of their index.

    kind: single, one class at a time (softmax); multi, each class yes or no (sigmoid); scalar, one
    number (linear).
    """

    name: str
    kind: str
    classes: tuple[str, ...]


def read_heads() -> tuple[Head, ...]:
    """The heads, in the order of the file. Raises LakeError that names the line to mend."""
    path = schema.SQL_DIR / "classes.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    heads = []
    for name, some in groupby(rows, itemgetter("head")):
        group = list(some)
        kind = group[0]["kind"]
        indices = [row["index"] for row in group]
        whole = indices == [str(n) for n in range(len(group))] and {r["kind"] for r in group} == {
            kind
        }
        if not whole or kind not in KINDS or (kind == "scalar" and len(group) > 1):
            remedy = f"index runs from 0 without a gap, kind is one of {', '.join(KINDS)}"
            raise LakeError(f"the head {name} is wrong", path.name, remedy)
        heads.append(Head(name, kind, tuple(row["value"] for row in group)))
    return tuple(heads)
