"""The command line where something it needs is not there."""

import subprocess
import sys

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from radnet_lake.cli import main
sys.exit(main(["evaluate", "run"]))
"""


def test_training_without_its_packages_names_what_to_install() -> None:
    words = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: torch: is not installed; pip install 'radnet_lake[train]'\n"
