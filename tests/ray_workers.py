"""Processes of this Ray's workers, so that tests can kill them."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def find_workers(title: str) -> list[int]:
    """Descendants of this process whose title has these words: others here may use Ray, too."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if title.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return [pid for pid in found if _descends(pid, parents)]


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def kill_worker(title: str) -> int | None:
    """Kill the first worker of that title; its process id, or None where there was none.

    One that ended by itself between being found and being killed does not count.
    """
    for pid in find_workers(title)[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return pid
    return None
