"""The command line: where words may stand, and where something it needs is not there."""

import subprocess
import sys
from pathlib import Path

import pytest

from radnet_lake.cli.app import main

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
from radnet_lake.cli import main
sys.exit(main(["evaluate", "run"]))
"""


def test_training_without_its_packages_names_what_to_install() -> None:
    words = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: torch: is not installed; pip install 'radnet_lake[train]'\n"


@pytest.mark.parametrize(
    "order", ["RUN IMAGE --out OUT", "--out OUT RUN IMAGE", "RUN --out OUT IMAGE"]
)
def test_arguments_stand_before_flags_or_after(
    order: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"RUN": str(tmp_path / "run"), "IMAGE": "ct.nii.gz", "OUT": str(tmp_path / "out")}
    words = [given.get(word, word) for word in order.split()]
    assert main(["liver", "segment", *words]) == 2
    stated = capsys.readouterr().err
    assert stated.startswith(f"error: {tmp_path}/run: is no run folder")


@pytest.mark.parametrize(
    ("words", "stated"),
    [
        (["harvest", "--lake", "lake"], "arguments are required"),
        (["harvests"], "invalid choice: 'harvests'"),
        (["liver"], "arguments are required: ACT"),
        (["harvest", "in", "--lak", "lake", "--fast"], "unrecognized arguments: --fast"),
        ([], "arguments are required: COMMAND"),
    ],
)
def test_a_wrong_word_is_told_with_its_usage(
    words: list[str], stated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    told_all = capsys.readouterr().err
    assert told_all.startswith("usage: radnet-lake")
    assert stated in told_all
