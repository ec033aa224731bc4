"""Takes the files of sql/, makes tables and macros of CSV files and views of SQL files.

    sql/lexicon/<label>.csv   -> find_<lexicon>(text), drop_<lexicon>(text), rule.lexicon
    sql/thresholds.csv        -> <name>(), rule.thresholds
    sql/rules/<label>.csv     -> rule.rules
    sql/<name>.csv            -> rule.<name>
    sql/query/<name>.sql      -> statements that Python runs: read_query
    sql/attributes.csv        -> agreed_keywords(), number_keywords(), ...: see list_keywords
    sql/lexicons.csv          -> sequence_evidence(): columns of text.sequence
    sql/labels.csv            -> label_names()

Each lexicon becomes one macro with one constant pattern, because a pattern that is read from a
column costs 400 times as much (measured on DuckDB 2.0).
"""

import csv
import hashlib
import re
from collections import defaultdict
from pathlib import Path

import duckdb

from radnet_lake import schema
from radnet_lake.errors import LakeError

_TYPES = {
    "thresholds": "{'value': 'double'}",
    "rules": "{'rank': 'integer', 'version': 'integer'}",
    "regions": "{'region': 'varchar'}",
    "labels": "{'value': 'varchar'}",
    "lexicon": "{'pattern': 'varchar'}",
    "classes": "{'index': 'integer'}",
    "collections": "{'patients': 'integer'}",
    "exclusions": "{'rank': 'integer', 'paper_rank': 'integer', 'in_paper': 'boolean'}",
}
"""Types of the columns that are not text."""

_ABOUT_SQL = (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException)
"""Errors whose message is about the SQL; others may quote a value of a header."""


def read_csv(path: Path) -> list[dict[str, str]]:
    """CSV file of sql/ -> rows."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_query(name: str) -> str:
    """Name -> text of sql/query/<name>.sql, a statement that Python runs."""
    return (schema.SQL_DIR / "query" / f"{name}.sql").read_text(encoding="utf-8")


def rule_set() -> str:
    """Hash of the rules: changes with any byte of sql/ that labels depend on."""
    digest = hashlib.sha256()
    for path in sorted(schema.SQL_DIR.rglob("*")):
        is_rule = path.parent.name != "query" and path.name != "vocabulary.csv"
        if path.suffix in (".sql", ".csv") and is_rule:
            digest.update(str(path.relative_to(schema.SQL_DIR)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the schema `rule` with one table per CSV file or folder of sql/."""
    connection.execute("create schema if not exists rule")
    for name, types in _TYPES.items():
        folder = schema.SQL_DIR / name
        source = folder / "*.csv" if folder.is_dir() else folder.with_suffix(".csv")
        connection.execute(
            f"create table rule.{name} as select * from read_csv('{source}', header = true,"
            f" types = {types}, nullstr = '', delim = ',')"
        )


def create_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """Create a macro of each threshold and each lexicon, then those of sql/0_macro.

    find_<lexicon>(text) is the first match, or NULL; drop_<lexicon>(text) is the text without
    matches. text: as normalised for the lexicon's file. Raises LakeError that names the bad row.
    """
    create_constants(connection)
    evidence = [
        row["lexicon"]
        for row in read_csv(schema.SQL_DIR / "lexicons.csv")
        if row["is_sequence_evidence"] == "true"
    ]
    lists = {"sequence_evidence": evidence, "label_names": list(schema.LABELS)}
    for name, texts in lists.items():
        connection.execute(f"create or replace macro {name}() as {texts!r}")
    for path in sorted((schema.SQL_DIR / "lexicon").glob("*.csv")):
        for name, pattern in _join_patterns(path).items():
            quoted = "'" + pattern.replace("'", "''") + "'"
            connection.execute(
                f"create or replace macro find_{name}(text) as"
                f" nullif(trim(regexp_extract(text, {quoted})), '')"
            )
            connection.execute(
                f"create or replace macro drop_{name}(text) as"
                f" regexp_replace(text, {quoted}, ' ', 'g')"
            )
    run_folder(connection, "0_macro")


def create_constants(connection: duckdb.DuckDBPyConnection) -> None:
    """Create a macro without arguments of each threshold and each list of list_keywords."""
    for row in read_csv(schema.SQL_DIR / "thresholds.csv"):
        connection.execute(f"create or replace macro {row['name']}() as {float(row['value'])!r}")
    for name, keywords in list_keywords().items():
        connection.execute(f"create or replace macro {name}() as {keywords!r}")


def list_keywords() -> dict[str, list[str] | str]:
    """Macro name -> keywords that the roll-up reads in one columns(); see schema.Attribute."""
    lists = ("texts", "numbers", "codes")
    agreed = [a for a in schema.ATTRIBUTES if a.roll_up == "agreed"]
    values = [a.keyword for a in schema.ATTRIBUTES if a.roll_up == "values"]
    return {
        "agreed_keywords": [a.keyword for a in agreed if a.kind not in lists],
        "agreed_list_keywords": [a.keyword for a in agreed if a.kind in lists],
        "number_keywords": [
            a.keyword for a in schema.ATTRIBUTES if a.roll_up in ("number", "values")
        ],
        # A regular expression, because columns() renames by one only.
        "values_keywords": f"^({'|'.join(values)})$",
    }


def _join_patterns(path: Path) -> dict[str, str]:
    """Lexicon file -> one pattern per lexicon; a token starts after a blank and is a whole word."""
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"token": [], "anywhere": []})
    for number, row in enumerate(read_csv(path), 2):
        try:
            re.compile(row["pattern"].replace(r"\p{L}", "x").replace(r"\p{N}", "0"))
            places[row["lexicon"]][row["place"]].append(row["pattern"])
        except (KeyError, re.error) as error:
            where = f"{path.name}, line {number}"
            raise LakeError(f"not a lexicon row: {error!r}", where, "correct the row") from None
    joined = {}
    for name, kinds in places.items():
        parts = [f" (?:{'|'.join(kinds['token'])})\\b"] if kinds["token"] else []
        parts += [f"(?:{'|'.join(kinds['anywhere'])})"] if kinds["anywhere"] else []
        joined[name] = "|".join(parts)
    return joined


def run_folder(
    connection: duckdb.DuckDBPyConnection, folder: str, materialise: bool = False
) -> None:
    """Run the SQL files of one folder of sql/, in the order of their names.

    Each makes one view, schema.name = folder.file without digits. materialise: store its rows as a
    table of the same name, so that its readers don't compute it again. Raises LakeError that names
    the file.
    """
    name = folder.lstrip("0123456789_")
    if folder[0].isdigit() and name not in ("macro", "header", "main"):
        connection.execute(f"create schema if not exists {name}")
    for path in sorted((schema.SQL_DIR / folder).glob("*.sql")):
        view = f"{name}.{path.stem.lstrip('0123456789_')}"
        try:
            connection.execute(path.read_text(encoding="utf-8"))
            if materialise:
                connection.execute(f"create table {view}_rows as from {view}")
                connection.execute(f"drop view {view}")
                connection.execute(f"alter table {view}_rows rename to {view.split('.')[1]}")
        except duckdb.Error as error:
            where = str(path.relative_to(schema.SQL_DIR.parent))
            detail = str(error) if isinstance(error, _ABOUT_SQL) else type(error).__name__
            raise LakeError(
                f"the view cannot be made: {detail}", where, "correct the file"
            ) from None
