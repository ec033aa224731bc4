"""Why a series has its labels, in words: which rule, which evidence, which rules lost."""

import json
from dataclasses import dataclass
from typing import Any

from radnet_lake import schema
from radnet_lake.lake.freshness import warn_if_stale
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.settings import SeriesSettings
from radnet_lake.lake.sql import clean_line, describe_label, refuse_unknown_series
from radnet_lake.lake.views import connect


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(SeriesSettings):
    """Settings of one explanation."""


def explain(config: ExplainConfig) -> str:
    """The explanation as text. Raises SettingError for a series that the lake does not have."""
    opened = open_lake(config.lake)
    stale = warn_if_stale(opened)
    with connect(opened.uri) as connection:
        found = connection.sql(
            "from series where SeriesInstanceUID = ?", params=[config.series]
        ).to_arrow_table()
        if not found.num_rows:
            refuse_unknown_series(config.series, "series")
        meanings = dict(
            connection.execute(
                "select rule_id, meaning from rule.rules"
                " union all select rule_id, meaning from rule.exclusions"
            ).fetchall()
        )
    row = found.to_pylist()[0]
    lines = [f"series {row['SeriesInstanceUID']}", *_describe(row), ""]
    for name in schema.LABELS:
        lines += _explain_label(row, name, meanings)
    lines += ["", *_explain_exclusion(row, meanings)]
    lines += ["", f"rules {row['rule_set']}, mode {row['label_mode']}; sql/rules says more of each"]
    return "\n".join(lines + ([f"note: {stale}"] if stale else []))


def _describe(row: dict[str, Any]) -> list[str]:
    place = f", collection {clean_line(row['collection'])}" if row["collection"] else ""
    facts = [f"{row['Modality'] or 'no modality'}{place}, {row['n_frames']} frames"]
    facts += [
        f"{keyword} {_show(row[keyword])}"
        for keyword in ("SeriesDescription", "StudyDescription", "BodyPartExamined")
        if row[keyword] is not None
    ]
    stack = f"geometry {row['geometry']}: {row['slice_count'] or 0} slice locations"
    if row["slice_spacing_mm"] is not None:
        stack += f", {row['slice_spacing_mm']:.3g} mm apart"
        stack += f" ({row['effective_spacing_mm']:.3g} mm after resizing)"
    if row["repeat_kind"]:
        stack += f"; frames repeat: {row['repeat_kind']}"
    if row["salvage"]:
        stack += f"; could be rescued: {row['salvage']}"
    return [f"  {fact}" for fact in [*facts, stack]]


def _explain_label(row: dict[str, Any], name: str, meanings: dict[str, str]) -> list[str]:
    value, rule = row[name], row[f"{name}_rule"]
    title = f"{name.replace('_', ' ')}: {describe_label(value)}"
    if rule is None:
        return [title, "  no rule fired"]
    lines = [f"{title}   [{rule}, {row[f'{name}_tier']}]", f"  because {meanings.get(rule, rule)}"]
    lines += [f"    {text}" for text in _read_evidence(row[f"{name}_evidence"])]
    if row[f"{name}_conflict"]:
        lines.append("  in conflict: other evidence says otherwise")
    for loser in row[f"{name}_losers"] or []:
        if loser["value"] == _stored(value):
            lines.append(f"  agrees: {loser['rule']}")
        else:
            lines.append(f"  outranked: {_say_stored(loser['value'])}   [{loser['rule']}]")
            lines += [f"    {text}" for text in _read_evidence(loser["evidence"])]
    return lines


def _stored(value: Any) -> str | None:
    """A label's value as rules give it: text."""
    if isinstance(value, list):
        return "|".join(value)
    return str(value).lower() if isinstance(value, bool) else value


def _say_stored(value: str | None) -> str:
    if value in ("true", "false"):
        return describe_label(value == "true")
    return describe_label(value if value is None else [part for part in value.split("|") if part])


def _explain_exclusion(row: dict[str, Any], meanings: dict[str, str]) -> list[str]:
    if row["excluded_by"] is None:
        return ["included: nothing excludes it"]
    lines = [f"excluded by {row['excluded_by']}"]
    for hit in row["exclusion_evidence"]:
        lines.append(f"  {hit['rule']}: {meanings[hit['rule']]} ({clean_line(hit['detail'])})")
    return lines


def _read_evidence(evidence: str | None) -> list[str]:
    found = json.loads(evidence) if evidence else {}
    return [f"{key} = {_show(value)}" for key, value in found.items() if value not in (None, [])]


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | list | dict) else value
    return clean_line(str(text), 200)
