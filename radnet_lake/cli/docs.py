"""Generated documentation: takes the code and sql/, gives the pages that are made of them.

`make docs` writes them, and a test fails where one is stale.
"""

import ast
import dataclasses
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import radnet_lake
from radnet_lake import schema
from radnet_lake.cli.app import import_name, read_field_texts
from radnet_lake.cli.commands import COMMANDS
from radnet_lake.label import docs_tables
from radnet_lake.settings import name_flag

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "radnet_lake"


def make_pages() -> dict[str, str]:
    """Path below the repository -> text of every generated page."""
    pages = {
        "docs/cli.md": describe_commands(),
        "docs/api.md": describe_api(),
        "docs/architecture.md": describe_architecture(),
        "sql/SCHEMA.md": schema.describe(),
    }
    for name in docs_tables.PAGES:
        page = docs_tables.DOCS / name
        pages[f"docs/{name}"] = docs_tables.refresh(page.read_text(encoding="utf-8"))
    return pages


def describe_commands() -> str:
    """docs/cli.md: each command with its arguments, flags, defaults and an example."""
    lines = ["# Commands", "", "Made by `make docs` from the settings of each command.", ""]
    for name, command in COMMANDS.items():
        summary = command.summary[0].upper() + command.summary[1:]
        lines += [f"## radnet-lake {name}", "", f"{summary}.", ""]
        lines += ["| argument | default | meaning |", "|---|---|---|"]
        lines += [_describe_field(*pair) for pair in _list_fields(import_name(command.settings))]
        lines += ["", "```sh", command.example, "```", ""]
    return "\n".join(lines)


def _list_fields(settings: type) -> Iterator[tuple[dataclasses.Field[Any], str]]:
    texts = read_field_texts(settings)
    fields = dataclasses.fields(settings)
    for one in sorted(fields, key=lambda f: f.default is not dataclasses.MISSING):
        yield one, texts[one.name]


def _describe_field(field: dataclasses.Field[Any], text: str) -> str:
    short = f"`{field.metadata['short']}`, " if "short" in field.metadata else ""
    flag = short + f"`{field.metadata.get('positional') or name_flag(field.name)}`"
    default = "required" if field.default is dataclasses.MISSING else f"`{field.default}`"
    if field.default in ("", None, False, ()):
        default = ""
    choices = [str(choice) for choice in field.metadata.get("choices", ()) if choice != ""]
    if choices:
        text += f" (one of: {', '.join(choices)})"
    return f"| {flag} | {default} | {_escape(text)} |"


def describe_api() -> str:
    """docs/api.md: the public names with signature and docstring."""

    lines = [
        "# Python API",
        "",
        "Made by `make docs`: these names stay; all others may change.",
        "",
    ]
    functions = [n for n in radnet_lake.__all__ if callable(getattr(radnet_lake, n))]
    for module, names in (
        (radnet_lake, functions),
        (radnet_lake.stream, radnet_lake.stream.__all__),
        (radnet_lake.liver_case, radnet_lake.liver_case.__all__),
    ):
        lines += [f"## {module.__name__}", ""]
        for name in names:
            lines += _describe_name(module, name)
    return "\n".join(lines)


def _describe_name(module: ModuleType, name: str) -> list[str]:
    thing = getattr(module, name)
    signature = "" if _is_tuple_or_settings(thing) else str(inspect.signature(thing))
    signature = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", signature).replace("'", "")
    lines = [f"### {name}", "", "```python", f"{name}{signature}", "```", ""]
    lines += [inspect.cleandoc(thing.__doc__ or ""), ""]
    if dataclasses.is_dataclass(thing):
        lines += ["| field | default | meaning |", "|---|---|---|"]
        texts = read_field_texts(thing) if isinstance(thing, type) else {}
        for one in dataclasses.fields(thing):
            default = "required" if one.default is dataclasses.MISSING else f"`{one.default!r}`"
            lines.append(f"| `{one.name}` | {default} | {_escape(texts.get(one.name, ''))} |")
        lines.append("")
    return lines


def _is_tuple_or_settings(thing: Any) -> bool:
    return dataclasses.is_dataclass(thing) or hasattr(thing, "_fields")


def describe_architecture() -> str:
    """docs/architecture.md: packages and their modules, who imports whom, lineage of SQL views."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rules = contracts["tool"]["importlinter"]["contracts"]
    lines = [
        "# Architecture",
        "",
        "Made by `make docs` from docstrings, `pyproject.toml` and `sql/`.",
    ]
    lines += ["", "## Packages", "", "A package imports only from packages below it.", ""]
    lines += _draw_layers(rules[0]["layers"])
    lines += ["", "Libraries have their places:", "", "| library | imported in |", "|---|---|"]
    for rule in rules[1:]:
        places = {place.split(".")[1] for place in rule["allowed_importers"]}
        lines.append(f"| {', '.join(rule['protected_modules'])} | {', '.join(sorted(places))} |")
    packages = [
        folder for folder in sorted(PACKAGE.rglob("*")) if (folder / "__init__.py").exists()
    ]
    for folder in [PACKAGE, *packages]:
        title = folder.relative_to(ROOT).as_posix()
        lines += ["", f"### {title}", "", _read_docstring(folder / "__init__.py"), ""]
        lines += ["| module | |", "|---|---|"]
        for path in sorted(folder.glob("*.py")):
            if path.name != "__init__.py":
                first = _read_docstring(path).split("\n\n")[0].replace("\n", " ")
                lines.append(f"| `{path.name}` | {_escape(first)} |")
    lines += [
        "",
        "## SQL views",
        "",
        "Folders of `sql/` are layers, read in this order; a view reads",
    ]
    lines += ["only from lower layers. Each file begins with its grain and its meaning.", ""]
    lines += ["| view | grain | reads |", "|---|---|---|"]
    views = list(_list_views())
    for view, grain, sources in views:
        lines.append(f"| `{view}` | {_escape(grain)} | {', '.join(sources)} |")
    return "\n".join([*lines, "", *_draw_lineage(views), ""])


def _draw_layers(layers: list[str]) -> list[str]:
    lines = ["```mermaid", "flowchart TD"]
    for number, layer in enumerate(layers):
        lines.append(f"  L{number}[{layer.replace(' | ', ' · ')}]")
    lines += [f"  L{n} --> L{n + 1}" for n in range(len(layers) - 1)]
    return [*lines, "```"]


def _list_views() -> Iterator[tuple[str, str, list[str]]]:
    """View, first sentence of its grain, and the views and tables that it reads."""
    folders = [folder for folder in sorted(schema.SQL_DIR.iterdir()) if folder.name[0].isdigit()]
    paths = [path for folder in folders for path in sorted(folder.glob("*.sql"))]
    names = {path: _name_view(path) for path in paths if "macro" not in path.parent.name}
    main = [name for name in names.values() if "." not in name]
    known = re.compile(
        rf"\b(?:from|join)\s+((?:frame|rollup|text|evidence|hit|decision|exclusion|labelled|stage"
        rf"|stored|rule|site)\.\w+|(?:{'|'.join(main)})\b)"
    )
    for path, name in names.items():
        text = path.read_text(encoding="utf-8")
        grain = text.splitlines()[0].removeprefix("-- grain: ")
        code = re.sub(r"--.*", "", text)
        own = set(re.findall(r"(\w+) as (?:materialized )?\(", code))
        yield name, grain, sorted(set(known.findall(code)) - {name} - own)


def _name_view(path: Path) -> str:
    folder = path.parent.name.lstrip("0123456789_")
    name = path.stem.lstrip("0123456789_")
    return name if folder in ("header", "main") else f"{folder}.{name}"


def _draw_lineage(views: list[tuple[str, str, list[str]]]) -> list[str]:
    """The lineage as a picture; tables of rules are left out, since nearly all layers read them."""
    edges = {
        (source, view)
        for view, _, sources in views
        for source in sources
        if not source.startswith(("rule.", "stored."))
    }
    numbers = {name: n for n, name in enumerate(sorted({one for edge in edges for one in edge}))}
    lines = ["```mermaid", "flowchart LR"]
    lines += [f'  V{n}["{name}"]' for name, n in numbers.items()]
    lines += [f"  V{numbers[a]} --> V{numbers[b]}" for a, b in sorted(edges)]
    return [*lines, "```"]


def _read_docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    for page, text in make_pages().items():
        (ROOT / page).write_text(text, encoding="utf-8")
