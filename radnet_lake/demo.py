"""The demo: a phantom archive, its lake, labels and volumes, a picture, and what to try next."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from radnet_lake.explain import ExplainConfig, explain
from radnet_lake.harvest import HarvestConfig, harvest
from radnet_lake.label import LabelConfig, label
from radnet_lake.lake import connect
from radnet_lake.phantom import PhantomConfig, phantom
from radnet_lake.preprocess import PreprocessConfig, preprocess
from radnet_lake.query import QueryConfig, query
from radnet_lake.show import ShowConfig, show
from radnet_lake.summary import print_label
from radnet_lake.watch import HarvestWatch, PreprocessWatch, print_harvest, print_preprocess

QUERIES = (
    "select run_id, status, objects_seen, instances, rejects, known, adds_up from runs",
    "select Modality, object_kind, count(distinct SeriesInstanceUID) as series, count(*) as frames"
    " from instances group by all order by all",
    "select any_value(Modality) as Modality, any_value(SeriesDescription) as SeriesDescription,"
    " count(*) as frames, any_value(RepetitionTime) as TR, any_value(EchoTime) as TE,"
    " any_value(ContrastBolusAgent) as agent from instances where object_kind = 'image'"
    " group by SeriesInstanceUID order by all limit 12",
    "select reason, detail, count(*) as n from rejects group by all",
)


WORTH_EXPLAINING = """
    select SeriesInstanceUID
    from series
    where sequence = 'T2-FLAIR'
    order by excluded_by is null, len(sequence_losers) desc nulls last, SeriesInstanceUID
    limit 1
"""
"""A label with other rules against it, of a series that is excluded, where there is one."""


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo."""

    out: str = "demo"
    """folder to write into"""
    patients: int = 3
    """patients of the phantom archive"""


def demo(config: DemoConfig) -> None:
    """Make a phantom archive, harvest, label and preprocess it; show the lake's answers."""
    out = Path(config.out).absolute()
    archive, lake = out / "archive", out / "lake"
    if not archive.exists():
        print(f"making a phantom archive of {config.patients} patients ...", flush=True)
        phantom(PhantomConfig(out=str(archive), patients=config.patients))
    # Nobody's data: there is nothing to pseudonymise.
    settings = HarvestConfig(
        sources=(str(archive),), lake=str(lake), phi="keep", collection="phantom"
    )
    with HarvestWatch() as watch:
        print_harvest(harvest(settings, watch))
    for sql in QUERIES:
        print(f"\n$ radnet-lake query --lake {shlex.quote(str(lake))} {shlex.quote(sql)}")
        query(QueryConfig(sql=sql, lake=str(lake)))
    print(f"\n$ radnet-lake label --lake {shlex.quote(str(lake))}")
    print_label(label(LabelConfig(lake=str(lake))))
    with connect(str(lake)) as connection:
        found = connection.execute(WORTH_EXPLAINING).fetchall()
    for (uid,) in found:
        print(f"\n$ radnet-lake explain {uid} --lake {shlex.quote(str(lake))}")
        print(explain(ExplainConfig(series=uid, lake=str(lake))))
    _look(str(lake), str(out / "volumes.png"))
    print(f"\nThe lake is {lake}; ask it more: radnet-lake shell --lake {shlex.quote(str(lake))}")


def _look(lake: str, picture: str) -> None:
    """Preprocess, and draw what is to be trained on."""
    print(f"\n$ radnet-lake preprocess --lake {shlex.quote(lake)}")
    with PreprocessWatch() as watch:
        report = preprocess(PreprocessConfig(lake=lake), watch)
    print_preprocess(report)
    kept = "excluded_by is null"
    print(f'\n$ radnet-lake show --lake {shlex.quote(lake)} --where "{kept}" -o {picture}')
    *_, last = show(ShowConfig(output=picture, lake=lake, where=kept))
    print(last)
