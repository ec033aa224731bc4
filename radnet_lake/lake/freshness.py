"""Whether the labels are current: takes a lake, gives a sentence on what is newer, or ''."""

from radnet_lake.errors import LakeError
from radnet_lake.lake import sql_files
from radnet_lake.lake.log import Lake

MODES = ("paper", "default", "strict")


def _list_said(lake: Lake) -> list[str]:
    """The files of overrides and protocols."""
    return [*lake.folder.names("overrides/"), *lake.folder.names("protocols/")]


def warn_if_stale(lake: Lake) -> str:
    """A sentence where something newer than the labels is in the lake or in the rules, else ''.

    Raises LakeError where the lake never was labelled.
    """
    labels = lake.snapshot.labels
    if not labels or not lake.snapshot.of("series"):
        raise LakeError("not labelled yet", lake.uri, f"run: radnet-lake label --lake {lake.uri}")
    later = any(
        run["updated_at"] > labels["at"]
        and (run["instances"] or run["superseded"] or run["vanished"])
        for run in lake.snapshot.runs.values()
    )
    newer = {
        "a harvest is": later,
        "overrides or protocols are": labels.get("said") != _list_said(lake),
        "the rules are": labels["rule_set"] != sql_files.rule_set(),
    }
    told = " and ".join(what for what, is_newer in newer.items() if is_newer)
    return f"{told} newer than the labels; run: radnet-lake label" if told else ""
