"""README and docs are true: commands run, the tree is the disk, generated pages are fresh."""

import contextlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from command_lines import run_in_shell, run_line
from programs import needs_program

import radnet_lake
from radnet_lake import schema
from radnet_lake.cli import docs
from radnet_lake.cli.app import main
from radnet_lake.cli.commands import COMMANDS
from radnet_lake.label import docs_tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
QUIET = ("query", "label", "explain", "show", "funnel", "protocols", "export", "attach", "compact")
"""Verbs that write nothing on stderr when all is well."""


def read_blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_local")
def test_quick_start_and_guide_run_as_written(tmp_path: Path) -> None:
    quick_start = README.split("## Quick start\n", 1)[1]
    lines = read_blocks(quick_start, "sh")[0].strip().splitlines()
    assert len(lines) <= 30
    lines += "".join(read_blocks(GUIDE, "sh")).strip().splitlines()
    for line in lines:
        # One command starts a Ray of its own, as it does for a user; the others save that time.
        in_shell = "$(" in line or line.startswith("radnet-lake compact")
        done = run_in_shell(line, tmp_path) if in_shell else run_line(line, tmp_path)
        assert done.status == 0, (line, done.errors)
        assert done.errors == "" or line.split()[1] not in QUIET, (line, done.errors)
    for name in ("labels.parquet", "series.png", "sheet.png", "lake.duckdb"):
        assert (tmp_path / name).exists()
    assert (tmp_path / "headers.csv").read_text().startswith("SeriesInstanceUID,StudyDescription\n")
    with contextlib.chdir(tmp_path):
        for code in (*read_blocks(README, "python"), *read_blocks(GUIDE, "python")):
            exec(code.replace(".df()", ".fetchall()"), {})


@needs_program("git", "git")
def test_tree_of_the_readme_is_the_disk() -> None:
    tree = README.split("## The tree\n", 1)[1]
    lines = read_blocks(tree, "")[0].strip().splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    packages = (ROOT / "radnet_lake").glob("*/__init__.py")
    assert listed == {f"{path.parent.name}/" for path in packages}
    folders = {line.split()[0] for line in lines if not line.startswith("  ")}
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    on_disk = {f"{name.split('/')[0]}/" for name in files if "/" in name and name[0] != "."}
    assert folders == on_disk


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), (page.name, link)


def test_readme_is_a_front_door() -> None:
    assert len(README.splitlines()) <= 160


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


@pytest.mark.parametrize("name", docs.make_pages())
def test_generated_pages_are_fresh(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == docs.make_pages()[name], f"{name} is stale: run `make docs`"


def test_every_column_that_rules_are_written_against_has_a_meaning() -> None:
    columns = docs_tables.describe_evidence()
    assert {view for view, *_ in columns} >= {"evidence.sequence", "text.region"}
    assert [(view, name) for view, name, _, meaning in columns if not meaning] == []


def test_every_reject_reason_is_a_snake_case_word_with_a_meaning() -> None:
    for reason, meaning in schema.REJECT_REASONS.items():
        assert re.fullmatch(r"[a-z_]+", reason)
        assert meaning


def test_one_version_everywhere() -> None:
    version = radnet_lake.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[([\d.]+)\]", changes, re.M)[1] == version  # type: ignore[index]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]


def test_completion_in_a_notebook_shows_the_public_names() -> None:
    names = dir(radnet_lake)
    assert {"connect", "attach", "read_volume", "load_network", "stream", "liver_case"} <= {*names}
    for name in names:
        assert getattr(radnet_lake, name) is not None
    with pytest.raises(AttributeError):
        _ = radnet_lake.no_such_name


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")))
def test_issue_forms_ask_for_no_identity(form: Path) -> None:
    template = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= template.keys()
    assert "dentit" in form.read_text() or "No patient data" in form.read_text()
