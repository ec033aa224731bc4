"""The tables of docs/labels.md, made from the rules themselves: `make schema` refreshes them."""

import re
import sys
from pathlib import Path

from radnet_lake import schema
from radnet_lake.lake.sql_files import read_csv

PAGE = Path(__file__).parent.parent.parent / "docs" / "labels.md"
_BLOCK = re.compile(r"(<!-- (\w+): (\w+) -->\n)(.*?)(<!-- end -->)", re.S)


def refresh(page: str) -> str:
    """The page with every block `<!-- kind: name --> ... <!-- end -->` made anew."""
    return _BLOCK.sub(lambda m: m[1] + _table(m[2], m[3]) + m[5], page)


def _table(kind: str, name: str) -> str:
    columns, rows = {
        "rules": _list_rules,
        "lexicon": _list_lexicons,
        "file": _list_file,
    }[kind](name)
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(_cell(c) for c in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _list_rules(label: str) -> tuple[list[str], list[list[str]]]:
    rows = [
        row
        for path in sorted((schema.SQL_DIR / "rules").glob("*.csv"))
        for row in read_csv(path)
        if row["label"] == label
    ]
    rows.sort(key=lambda row: (int(row["rank"]), row["rule_id"]))
    columns = ["rank", "rule_id", "tier", "modes", "meaning", "source"]
    return columns, [[row[c].replace("|", ", ") for c in columns] for row in rows]


def _list_lexicons(file: str) -> tuple[list[str], list[list[str]]]:
    found: dict[str, tuple[set[str], list[str]]] = {}
    for row in read_csv(schema.SQL_DIR / "lexicon" / f"{file}.csv"):
        languages, examples = found.setdefault(row["lexicon"], (set(), []))
        languages.add(row["language"])
        examples.append(row["matches"])
    meanings = {row["lexicon"]: row["meaning"] for row in read_csv(schema.SQL_DIR / "lexicons.csv")}
    columns = ["lexicon", "meaning", "languages", "rows", "for example"]
    return columns, [
        [
            name,
            meanings[name],
            ", ".join(sorted(languages)),
            str(len(examples)),
            "; ".join(examples[:3]),
        ]
        for name, (languages, examples) in found.items()
    ]


def _list_file(name: str) -> tuple[list[str], list[list[str]]]:
    rows = read_csv(schema.SQL_DIR / f"{name}.csv")
    columns = list(rows[0])
    return columns, [[row[c].replace("|", ", ") for c in columns] for row in rows]


if __name__ == "__main__":
    sys.stdout.write(refresh(PAGE.read_text(encoding="utf-8")))
