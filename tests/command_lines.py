"""Lines of a shell block of the documentation, run as they stand."""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from radnet_lake.cli.app import main

BIN = Path(sys.executable).parent


class Done(NamedTuple):
    """How a line ended: its exit status, and what it wrote to stderr."""

    status: int
    errors: str


def run_line(line: str, folder: Path) -> Done:
    """A line that is one radnet-lake command, without a subshell or a pipe: run by this process.

    So it uses this process's Ray, whose workers have imported everything already.
    """
    program, *words = shlex.split(line)
    assert program == "radnet-lake"
    errors = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(errors):
        return Done(main(words), errors.getvalue())


def run_in_shell(line: str, folder: Path, **variables: str) -> Done:
    """Any line, by bash: as a user runs it."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | variables
    words = ["bash", "-c", line]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    return Done(done.returncode, done.stderr)
