"""Programs of the system that tests start, and the Debian packages that they come with."""

import shutil
from pathlib import Path

import pytest

PACKAGES = (Path(__file__).parent.parent / ".ci" / "packages").read_text().splitlines()


def needs_program(name: str, package: str) -> pytest.MarkDecorator:
    """Skips a test where the program is not there, and names the package that has it."""
    assert package in PACKAGES, f"{package}: add it to .ci/packages"
    reason = f"{name} is not installed: apt-get install {package}"
    return pytest.mark.skipif(shutil.which(name) is None, reason=reason)
