"""How far an act is, and what failed: counts and messages for whoever looks on, or a test."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol


class Progress(Protocol):
    """Called by an act, first with what there is to do, then as it is done."""

    def __call__(
        self,
        done: int,
        expected: int | None,
        unit: str,
        notes: Mapping[str, int | str] | None = None,
        messages: Sequence[str] = (),
    ) -> None:
        """Take how many are done, of how many: None where that is not known, as before a start.

        unit: what is counted, as files. notes: other counts by their names. messages: lines, each
        passed once.
        """


def show_nothing(
    done: int,
    expected: int | None,
    unit: str,
    notes: Mapping[str, int | str] | None = None,
    messages: Sequence[str] = (),
) -> None:
    """The progress of an act that nobody looks at."""


def list_failures(reasons: Counter[str], meanings: Mapping[str, str]) -> list[str]:
    """How often each reason occurred, and what it means -> lines of a report."""
    return [f"failed    {n:>8}  {name}: {meanings[name]}" for name, n in reasons.most_common()]
