"""How a person watches a run: a progress bar on a terminal, lines in a job log.

Not rich, because most runs are jobs, whose logs need plain lines.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

LINE_EVERY_S = 10.0


class ProgressBar:
    """A bar on a terminal, else a line every LINE_EVERY_S: how many, how many a second, ETA.

    It is a progress.Progress. name: of the command, before each line.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm[Any] | None = None
        self.started = self.last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(
        self,
        done: int,
        expected: int | None,
        unit: str,
        notes: Mapping[str, int | str] | None = None,
        messages: Sequence[str] = (),
    ) -> None:
        """Show messages, and how many are done, of how many if that is known, with the notes."""
        if not self.started or (not done and expected is None):
            # The rate counts from here: workers, for instance, take a while to start.
            self.started = self.last_line = time.monotonic()
        if self.bar is None and sys.stderr.isatty():
            self.bar = tqdm(unit=f" {unit}", desc=self.name, smoothing=0.1)
        for text in messages:
            self._say(text)
        if self.bar is None:
            self._show_line(done, expected, unit, notes or {})
            return
        if expected and expected >= done:
            self.bar.total = expected
        self.bar.set_postfix(notes, refresh=False)
        self.bar.update(done - self.bar.n)

    def _show_line(
        self, done: int, expected: int | None, unit: str, notes: Mapping[str, int | str]
    ) -> None:
        now = time.monotonic()
        if now - self.last_line < LINE_EVERY_S:
            return
        self.last_line = now
        rate = done / (now - self.started)
        a_second = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        others = "".join(f", {count} {name}" for name, count in notes.items())
        left = f", about {(expected - done) / rate:.0f} s left" if expected and rate else ""
        self._say(f"{done} {unit}, {a_second} {unit}/s{others}{left}")

    def _say(self, text: str) -> None:
        """One line on stderr."""
        tqdm.write(f"{self.name}: {text}", file=sys.stderr)
