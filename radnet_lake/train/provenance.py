"""Provenance: gives the commit, the packages and the machine of a run, for run.json."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from radnet_lake import __version__
from radnet_lake.lake.log import utc_now


def describe_code() -> dict[str, Any]:
    """Version, commit, packages, machine and time, as run.json holds them."""
    packages = ("ray", "pyarrow", "duckdb", "numpy")
    return {
        "radnet_lake": __version__,
        "git": _read_commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "started": utc_now().isoformat(timespec="seconds"),
    }


def _read_commit() -> dict[str, Any] | None:
    """Commit of the code, and whether files differ from it; None outside a clone."""
    folder = Path(__file__).parent

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.strip()

    try:
        # Installed into an environment that lies in somebody's clone, it is not of that clone.
        ask("ls-files", "--error-unmatch", Path(__file__).name)
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
