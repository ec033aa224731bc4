"""How a person watches a harvest: a progress bar on a terminal, lines in a job log, a summary."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from radnet_lake.harvest import HarvestReport

LINE_EVERY_S = 10.0


class HarvestWatch:
    """Called with the sums after each chunk; shows files, files/s, rejects, and the ETA."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.last_line = self.started
        self.bar = (
            tqdm(unit=" files", desc="harvest", smoothing=0.1) if sys.stderr.isatty() else None
        )

    def __enter__(self) -> "HarvestWatch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, sums: dict[str, int], expected: int | None) -> None:
        """Show the sums; `expected` files, if an earlier run of the same sources tells."""
        files, rejects = sums["files_listed"], sums["rejects"]
        if self.bar is not None:
            if expected and expected >= files:
                self.bar.total = expected
            self.bar.set_postfix(rejects=rejects, known=sums["known"], refresh=False)
            self.bar.update(files - self.bar.n)
            return
        now = time.monotonic()
        if now - self.last_line < LINE_EVERY_S:
            return
        self.last_line = now
        rate = files / (now - self.started)
        left = f", about {(expected - files) / rate:.0f} s left" if expected and rate else ""
        print(
            f"harvest: {files} files, {rate:.0f} files/s, {rejects} rejects,"
            f" {sums['known']} known{left}",
            file=sys.stderr,
            flush=True,
        )


def print_harvest(report: HarvestReport) -> None:
    """The closing summary: the sums that must match, the rejects by reason, what to type next."""
    s = report.sums
    rate = s["files_listed"] / report.seconds if report.seconds else 0
    print(f"lake      {report.lake}")
    print(f"run       {report.run_id}, {report.seconds:.1f} s, {rate:.0f} files/s")
    print(f"listed    {s['files_listed']} files, {s['bytes_listed'] / 1e6:.1f} MB", end="")
    print(f", {s['archives']} of them archives" if s["archives"] else "")
    print(
        f"seen      {s['objects_seen']} objects = {s['instances']} instances"
        f" + {s['rejects']} rejects + {s['known']} known"
    )
    print(f"rows      {s['rows']} (one per frame)")
    if s["superseded"]:
        print(f"changed   {s['superseded']} files; their old rows no longer count")
    if s["vanished"]:
        print(f"vanished  {s['vanished']} files; their rows no longer count")
    for reason, count in report.reject_reasons.items():
        print(f"reject    {count:>8}  {reason}")
    if report.words_allowed:
        print(
            f"words     {report.words_allowed} more words occur in 5 patients or more and are kept"
            f" now; {report.files_read_again} objects were read again for them"
        )
    print(f'next      radnet-lake query --lake {report.lake} "from runs"')
