"""Short ways to harvest into a lake and to ask it."""

from pathlib import Path
from typing import Any

import radnet_lake
from radnet_lake.harvest.harvest import HarvestConfig, HarvestReport, harvest


def run(source: Path | str, lake: Path | str, **settings: Any) -> HarvestReport:
    settings = {"phi": "keep", "chunk_files": 20, **settings}
    report = harvest(HarvestConfig(sources=(str(source),), lake=str(lake), **settings))
    s = report.sums
    assert s["objects_seen"] == s["instances"] + s["rejects"] + s["known"]
    return report


def ask(lake: Path | str, sql: str) -> list[tuple[Any, ...]]:
    with radnet_lake.connect(str(lake)) as connection:
        return connection.execute(sql).fetchall()


def everything(lake: Path | str, prefix: str) -> list[tuple[Any, ...]]:
    """All instance facts but where and when, URIs relative to the source."""
    return ask(
        lake,
        "select * exclude (uri, archive_uri, harvested_at, run_id, modified, etag),"
        f" replace(uri, '{prefix}', '') as place from instances order by place, frame_number",
    )
