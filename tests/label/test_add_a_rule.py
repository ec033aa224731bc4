"""The examples of docs/add-a-rule.md work: applied to a copy, every test of the rules passes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "add-a-rule.md").read_text(encoding="utf-8")


def apply_block(path: Path, block: str) -> None:
    """Edit a file: " " finds a line by its beginning, "+" adds a line, "-…" changes an ending."""
    lines = path.read_text(encoding="utf-8").splitlines()
    place, ending = -1, ""
    for line in block.splitlines():
        mark, text = line[0], line[1:]
        if mark == " ":
            begin = text.removesuffix("…")
            (place,) = (n for n, one in enumerate(lines) if one.startswith(begin))
        elif mark == "-":
            ending = text.removeprefix("…")
            (place,) = (n for n, one in enumerate(lines) if one.endswith(ending))
        elif ending:
            lines[place] = lines[place].removesuffix(ending) + text.removeprefix("…")
            ending = ""
        else:
            place += 1
            lines.insert(place, text)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_examples_of_the_page_pass_the_tests_of_the_rules(tmp_path: Path) -> None:
    for name in ("radnet_lake", "sql", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    blocks = re.findall(r"^`([\w/.]+)`\n\n```diff\n(.*?)```", PAGE, re.S | re.M)
    assert len(blocks) == 7
    for path, block in blocks:
        apply_block(tmp_path / path, block)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/label/test_rules.py",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
