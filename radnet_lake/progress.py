"""Takes counts and messages of a running command, for a progress bar, a job log or a test."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol


class Progress(Protocol):
    """Called by a command at its start and after each step."""

    def __call__(
        self,
        done: int,
        expected: int | None,
        unit: str,
        notes: Mapping[str, int | str] | None = None,
        messages: Sequence[str] = (),
    ) -> None:
        """Show `done` of `expected` units.

        expected: None where it is unknown. unit: what is counted, such as files. notes: other
        counts by name. messages: new lines since the last call.
        """


def show_nothing(
    done: int,
    expected: int | None,
    unit: str,
    notes: Mapping[str, int | str] | None = None,
    messages: Sequence[str] = (),
) -> None:
    """A Progress that shows nothing."""


def list_failures(reasons: Counter[str], meanings: Mapping[str, str]) -> list[str]:
    """Counts of reasons and their meanings -> lines of a report."""
    return [f"failed    {n:>8}  {name}: {meanings[name]}" for name, n in reasons.most_common()]
