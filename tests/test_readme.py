"""The README is true: its commands run, its tree is the disk's, every command is in it."""

import contextlib
import re
import subprocess
from pathlib import Path

import pytest
from command_lines import run_in_shell, run_line
from programs import needs_program

from radnet_lake import schema
from radnet_lake.cli.app import main
from radnet_lake.cli.commands import COMMANDS
from radnet_lake.label import docs_tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def read_block(heading: str, language: str) -> str:
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return section.split(f"```{language}\n", 1)[1].split("```", 1)[0]


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_local")
def test_commands_of_the_readme_run_as_written(tmp_path: Path) -> None:
    lines = read_block("Harvest and ask", "sh").strip().splitlines()
    lines += read_block("Label", "sh").strip().splitlines()
    lines += read_block("Preprocess and look", "sh").strip().splitlines()
    lines += read_block("Train, evaluate, predict", "sh").strip().splitlines()
    lines += read_block("Segment the liver", "sh").strip().splitlines()
    assert len(lines) == 30
    for line in lines:
        # One command starts a Ray of its own, as it does for a user; the others save that time.
        in_shell = "$(" in line or line.startswith("radnet-lake compact")
        done = run_in_shell(line, tmp_path) if in_shell else run_line(line, tmp_path)
        assert done.status == 0, (line, done.errors)
        told = line.split()[1] in ("harvest", "preprocess", "train", "evaluate", "predict", "liver")
        assert done.errors == "" or told, (line, done.errors)
    for name in ("labels.parquet", "series.png", "sheet.png"):
        assert (tmp_path / name).exists()
    assert (tmp_path / "headers.csv").read_text().startswith("SeriesInstanceUID,StudyDescription\n")
    code = read_block("Harvest and ask", "python").replace(".df()", ".fetchall()")
    code += read_block("Preprocess and look", "python")
    with contextlib.chdir(tmp_path):
        exec(code, {})


@needs_program("git", "git")
def test_tree_of_the_readme_is_the_disk() -> None:
    told = set()
    folder = ""
    for line in read_block("The tree", "").strip().splitlines():
        name = line.split()[0]
        if line.startswith("  "):
            told.add(folder + name)
        elif name.endswith("/"):
            folder = name
        else:
            told.add(name)
    files = subprocess.run(
        ["git", "ls-files", "radnet_lake", "sql", "jobs", "deploy", "benchmarks", "docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    folders = tuple(t for t in told if t.endswith("/") and t != "tests/")
    plain = {t for t in told if "/" in t and not t.endswith("/")}
    assert plain == {f for f in files if not f.startswith(folders)}
    for name in told:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_and_its_help_ends_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"`radnet-lake {name}`" in README
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    last = capsys.readouterr().out.strip().splitlines()[-1].strip()
    assert last == COMMANDS[name].example
    assert last.startswith(f"radnet-lake {name}")


def test_schema_page_is_what_the_schema_says() -> None:
    assert (ROOT / "sql/SCHEMA.md").read_text(encoding="utf-8") == schema.describe()


def test_tables_of_the_labels_page_are_those_of_the_rules() -> None:
    for name in docs_tables.PAGES:
        page = (docs_tables.DOCS / name).read_text(encoding="utf-8")
        assert page == docs_tables.refresh(page), f"{name} is stale: make schema"


def test_every_column_that_rules_are_written_against_has_a_meaning() -> None:
    columns = docs_tables.describe_evidence()
    assert {view for view, *_ in columns} >= {"evidence.sequence", "text.region"}
    assert [(view, name) for view, name, _, meaning in columns if not meaning] == []


def test_every_reject_reason_is_a_snake_case_word_with_a_meaning() -> None:
    for reason, meaning in schema.REJECT_REASONS.items():
        assert re.fullmatch(r"[a-z_]+", reason)
        assert meaning
