"""Takes a lake, gives a sentence on what is newer than its labels, or ''."""

from radnet_lake.errors import LakeError
from radnet_lake.lake import sql_files
from radnet_lake.lake.log import Lake

MODES = ("paper", "default", "strict")


def list_overrides(lake: Lake) -> list[str]:
    """Lake -> names of its override and protocol files."""
    return [*lake.folder.names("overrides/"), *lake.folder.names("protocols/")]


def warn_if_stale(lake: Lake) -> str:
    """Lake -> a sentence on harvests, overrides or rules newer than its labels, else ''.

    Raises LakeError where the lake was never labelled.
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
        "overrides or protocols are": labels.get("said") != list_overrides(lake),
        "the rules are": labels["rule_set"] != sql_files.rule_set(),
    }
    what = " and ".join(name for name, is_newer in newer.items() if is_newer)
    return f"{what} newer than the labels; run: radnet-lake label" if what else ""
