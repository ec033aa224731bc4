"""Settings: what is inherited stands once, and each command has few of its own."""

import ast
import dataclasses
from collections import Counter
from pathlib import Path

import pytest

import radnet_lake
from radnet_lake.cli.app import import_name, read_field_texts
from radnet_lake.cli.commands import COMMANDS

MOST_FIELDS = 12


def list_settings() -> list[tuple[str, ast.ClassDef]]:
    found = []
    for path in sorted(Path(radnet_lake.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Settings")):
                found.append((path.name, node))
    return found


def test_no_settings_class_has_more_than_twelve_fields_of_its_own() -> None:
    counts = {
        node.name: sum(isinstance(line, ast.AnnAssign) for line in node.body)
        for _, node in list_settings()
    }
    assert len(counts) > len(COMMANDS)
    assert {name: n for name, n in counts.items() if n > MOST_FIELDS} == {}


def test_each_help_text_stands_once() -> None:
    texts = Counter(
        " ".join(text.value.value.split())
        for _, node in list_settings()
        for field, text in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    )
    assert len(texts) > 100
    assert [text for text, n in texts.items() if n > 1] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_flag_has_a_help_text(name: str) -> None:
    settings = import_name(COMMANDS[name].settings)
    texts = read_field_texts(settings)
    assert {field.name for field in dataclasses.fields(settings)} == texts.keys()
    assert settings.__dataclass_params__.frozen


def test_a_field_without_a_text_has_that_of_the_class_it_comes_from() -> None:
    shared = read_field_texts(import_name("lake.settings:PrintSettings"))["format"]
    assert read_field_texts(import_name("lake.query:QueryConfig"))["format"] == shared
