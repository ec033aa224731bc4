"""The demo: a phantom archive, its lake, labels, volumes, a small network, and what to try next."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from radnet_lake.cli.app import run_command
from radnet_lake.evaluate.evaluate import EvaluateConfig
from radnet_lake.evaluate.predict import PredictConfig
from radnet_lake.harvest.harvest import HarvestConfig
from radnet_lake.label.explain import ExplainConfig
from radnet_lake.label.label import LabelConfig
from radnet_lake.lake.query import QueryConfig
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.views import connect
from radnet_lake.phantom.phantom import PhantomConfig, phantom
from radnet_lake.train.train import TrainConfig
from radnet_lake.volume.preprocess import PreprocessConfig
from radnet_lake.volume.show import ShowConfig, show

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
AUDIT = (
    "select label, header_value, network_value, round(surprise, 2) as surprise, split"
    " from audit limit 10"
)


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo."""

    out: str = "demo"
    """folder to write into"""
    patients: int = 16
    """patients of the phantom archive; of fewer than 4 none may be left to test on"""
    seed: int = 11
    """of the phantom archive and the network"""


def demo(config: DemoConfig) -> None:
    """Make a phantom archive, harvest, label and preprocess it; train a small network on it.

    Goes on where it stopped.
    """
    out = Path(config.out).absolute()
    archive, lake = out / "archive", out / "lake"
    if not archive.exists():
        print(f"making a phantom archive of {config.patients} patients ...", flush=True)
        phantom(PhantomConfig(out=str(archive), patients=config.patients, seed=config.seed))
    # Nobody's data: there is nothing to pseudonymise.
    settings = HarvestConfig(
        sources=(str(archive),), lake=str(lake), phi="keep", collection="phantom"
    )
    run_command("harvest", settings)
    for sql in QUERIES:
        print(f"\n$ radnet-lake query --lake {shlex.quote(str(lake))} {shlex.quote(sql)}")
        run_command("query", QueryConfig(sql=sql, lake=str(lake)))
    print(f"\n$ radnet-lake label --lake {shlex.quote(str(lake))}")
    run_command("label", LabelConfig(lake=str(lake)))
    with connect(str(lake)) as connection:
        found = connection.execute(read_query("explained_example")).fetchall()
    for (uid,) in found:
        print(f"\n$ radnet-lake explain {uid} --lake {shlex.quote(str(lake))}")
        run_command("explain", ExplainConfig(series=uid, lake=str(lake)))
    _look(str(lake), str(out / "volumes.png"))
    _learn(str(lake), str(out / "run"), config.seed)
    print(f"\nThe lake is {lake}; ask it more: radnet-lake shell --lake {shlex.quote(str(lake))}")


def _look(lake: str, picture: str) -> None:
    """Preprocess, and draw what is to be trained on."""
    print(f"\n$ radnet-lake preprocess --lake {shlex.quote(lake)}")
    run_command("preprocess", PreprocessConfig(lake=lake))
    kept = "excluded_by is null"
    print(f'\n$ radnet-lake show --lake {shlex.quote(lake)} --where "{kept}" -o {picture}')
    *_, last = show(ShowConfig(output=picture, lake=lake, where=kept))
    print(last)


def _learn(lake: str, run: str, seed: int) -> None:
    """Train a small network on small volumes, test it, ask it."""
    at, folder = f"--lake {shlex.quote(lake)}", shlex.quote(run)
    slices, side = 16, 48
    print(f"\n$ radnet-lake preprocess {at} --slices {slices} --rows {side} --columns {side}")
    run_command("preprocess", PreprocessConfig(lake=lake, slices=slices, rows=side, columns=side))
    config = TrainConfig(
        out=run,
        lake=lake,
        resume=Path(run, "config.json").exists(),
        preprocessing=f"{slices}x{side}x{side}",
        depth=10,
        width=16,
        learning_rate=0.002,
        channels_last=True,
        seed=seed,
    )
    flags = "--depth 10 --width 16 --learning-rate 0.002 --channels-last"
    print(
        f"\n$ radnet-lake train {at} --out {folder} --preprocessing {config.preprocessing} {flags}"
    )
    run_command("train", config)
    print(f"\n$ radnet-lake evaluate {folder} --split test")
    run_command("evaluate", EvaluateConfig(run=run))
    print(f"\n$ radnet-lake predict --run {folder} {at}")
    run_command("predict", PredictConfig(run=run, lake=lake))
    print(f'\n$ radnet-lake query {at} "{AUDIT}"')
    run_command("query", QueryConfig(sql=AUDIT, lake=lake))
