"""COMMANDS: every verb, the settings it takes, what runs it and prints.

The modules behind a command are imported when it runs, for Ray alone takes a second.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One verb, or two words.

    config: "module:Class" of the settings, whose fields are the flags. run: takes that and prints.
    """

    config: str
    run: Callable[[Any], None]
    summary: str
    example: str


def _run_harvest(config: Any) -> None:
    from radnet_lake.cli.progress import HarvestWatch, print_harvest
    from radnet_lake.harvest.harvest import harvest

    with HarvestWatch() as watch:
        report = harvest(config, watch)
    print_harvest(report)


def _run_label(config: Any) -> None:
    from radnet_lake.label.funnel import print_label
    from radnet_lake.label.label import label

    print_label(label(config))


def _run_preprocess(config: Any) -> None:
    from radnet_lake.cli.progress import PreprocessWatch, print_preprocess
    from radnet_lake.volume.preprocess import preprocess

    with PreprocessWatch() as watch:
        report = preprocess(config, watch)
    print_preprocess(report)


def _run_train(config: Any) -> None:
    from radnet_lake.cli.progress import TrainWatch, print_train
    from radnet_lake.train.train import train

    with TrainWatch() as watch:
        report = train(config, watch)
    print_train(report)


def _run_liver_train(config: Any) -> None:
    from radnet_lake.cli.progress import TrainWatch, print_train
    from radnet_lake.transfer.train import train_liver

    with TrainWatch("cases") as watch:
        report = train_liver(config, watch)
    print_train(report, "liver evaluate")


def _run_evaluate(config: Any) -> None:
    from radnet_lake.cli.progress import EvaluateWatch, print_evaluate
    from radnet_lake.evaluate.evaluate import evaluate

    with EvaluateWatch() as watch:
        report = evaluate(config, watch)
    print_evaluate(report)


def _run_predict(config: Any) -> None:
    from radnet_lake.cli.progress import PredictWatch, print_predict
    from radnet_lake.evaluate.predict import predict

    with PredictWatch() as watch:
        report = predict(config, watch)
    print_predict(report)


def _run_liver_evaluate(config: Any) -> None:
    from radnet_lake.cli.progress import EvaluateWatch, print_evaluate
    from radnet_lake.transfer.evaluate import evaluate_liver

    with EvaluateWatch("cases") as watch:
        report = evaluate_liver(config, watch)
    print_evaluate(report)


def _run_liver_sweep(config: Any) -> None:
    from radnet_lake.cli.progress import LiverSweepWatch, print_liver_sweep
    from radnet_lake.transfer.sweep.sweep import sweep_liver

    with LiverSweepWatch() as watch:
        report = sweep_liver(config, watch)
    print_liver_sweep(report)


def _run_liver_prepare(config: Any) -> None:
    from radnet_lake.cli.progress import LiverPrepareWatch, print_liver_prepare
    from radnet_lake.transfer.prepare import prepare_cases

    with LiverPrepareWatch() as watch:
        report = prepare_cases(config, watch)
    print_liver_prepare(report)


def _run_liver_segment(config: Any) -> None:
    from radnet_lake.cli.progress import LiverSegmentWatch, print_liver_segment
    from radnet_lake.transfer.segment import segment_liver

    with LiverSegmentWatch() as watch:
        report = segment_liver(config, watch)
    print_liver_segment(report)


def _run_funnel(config: Any) -> None:
    from radnet_lake.label.funnel import funnel

    funnel(config)


def _run_explain(config: Any) -> None:
    from radnet_lake.label.explain import explain

    print(explain(config))


def _run_show(config: Any) -> None:
    from radnet_lake.volume.show import show

    for line in show(config):
        print(line, flush=True)


def _run_override(config: Any) -> None:
    from radnet_lake.label.site import override

    print(f"{override(config)}\nnext: radnet-lake label, which applies it")


def _run_protocols(config: Any) -> None:
    from radnet_lake.label.site import protocols

    protocols(config)


def _run_export(config: Any) -> None:
    from radnet_lake.label.export import export

    for name, value in export(config).items():
        print(f"{name:14}{value}")


def _run_query(config: Any) -> None:
    from radnet_lake.lake.query import query

    query(config)


def _run_shell(config: Any) -> None:
    from radnet_lake.lake.query import run_shell

    run_shell(config)


def _run_attach(config: Any) -> None:
    from radnet_lake.lake.views import attach

    attach(config.lake, config.database)
    print(f'{config.database} is written; try: duckdb {config.database} "from instances limit 5"')


def _run_compact(config: Any) -> None:
    from radnet_lake.lake.compact import compact

    r = compact(config)
    print(
        f"{r.files_before} files became {r.files_after}; {r.rows_dropped} rows dropped,"
        f" {r.files_deleted} files deleted"
    )


def _run_phantom(config: Any) -> None:
    from radnet_lake.phantom.phantom import phantom

    r = phantom(config)
    print(f"{r}\nnext: radnet-lake harvest {config.out} --lake LAKE --phi keep")


def _run_locate(config: Any) -> None:
    from radnet_lake.lake.query import locate

    for uri in locate(config):
        print(uri)


def _run_demo(config: Any) -> None:
    from radnet_lake.cli.demo import demo

    demo(config)


COMMANDS: dict[str, Command] = {
    "harvest": Command(
        "harvest.harvest:HarvestConfig",
        _run_harvest,
        "crawl DICOM files on disk or S3 into a header lake",
        "radnet-lake harvest /archive s3://pacs/2019 --lake s3://lakes/ct --collection pacs",
    ),
    "label": Command(
        "label.label:LabelConfig",
        _run_label,
        "label every series by its headers; print the funnel and the label counts",
        "radnet-lake label --lake lake --mode default",
    ),
    "preprocess": Command(
        "volume.preprocess:PreprocessConfig",
        _run_preprocess,
        "turn the series of the training set into volumes of one size",
        "radnet-lake preprocess --lake lake --where \"sequence = 'T2-FLAIR'\"",
    ),
    "train": Command(
        "train.pretrain_plan:TrainConfig",
        _run_train,
        "train the network on the volumes and labels of the training set",
        "radnet-lake train --lake lake --out run --depth 18 --width 16 --epochs 20",
    ),
    "evaluate": Command(
        "evaluate.evaluate:EvaluateConfig",
        _run_evaluate,
        "print Table 1 of a training run, the paper's numbers beside it; draw its pictures",
        "radnet-lake evaluate run --split test",
    ),
    "predict": Command(
        "evaluate.predict:PredictConfig",
        _run_predict,
        "write what a trained network says of a lake's series, and its features, into the lake",
        "radnet-lake predict --run run --lake lake",
    ),
    "liver train": Command(
        "transfer.train_plan:LiverTrainConfig",
        _run_liver_train,
        "train a segmentation network on the pretrained, frozen encoder",
        "radnet-lake liver train --cases cases --out liver --freeze all --epochs 50",
    ),
    "liver evaluate": Command(
        "transfer.evaluate:LiverEvaluateConfig",
        _run_liver_evaluate,
        "print Dice and IoU of a segmenter's run, the paper's Table 2 beside them; draw cases",
        "radnet-lake liver evaluate liver-run --split test",
    ),
    "liver sweep": Command(
        "transfer.sweep.trials:LiverSweepConfig",
        _run_liver_sweep,
        "train and measure every row of the paper's Tables 2 and 3, over seeds; print the tables",
        "radnet-lake liver sweep --cases cases --out sweep --seeds 3 --epochs 50",
    ),
    "liver prepare": Command(
        "transfer.prepare:LiverPrepareConfig",
        _run_liver_prepare,
        "make cases of CT and mask, and let the pretrained network choose their windows",
        "radnet-lake liver prepare --lits LITS --run run --out cases",
    ),
    "liver segment": Command(
        "transfer.segment:LiverSegmentConfig",
        _run_liver_segment,
        "write masks of CT series, or of files, as DICOM SEG, NIfTI and pictures",
        "radnet-lake liver segment liver-run --lake lake --out masks --largest",
    ),
    "funnel": Command(
        "label.funnel:FunnelConfig",
        _run_funnel,
        "print how many series each exclusion takes",
        "radnet-lake funnel --lake lake --format csv",
    ),
    "explain": Command(
        "label.explain:ExplainConfig",
        _run_explain,
        "say in words why a series has its labels, and why it is excluded",
        "radnet-lake explain 1.2.840.113619.2.176 --lake lake",
    ),
    "show": Command(
        "volume.show:ShowConfig",
        _run_show,
        "draw a series before and after preprocessing, or many on a sheet",
        "radnet-lake show 1.2.840.113619.2.176 --lake lake -o out.png",
    ),
    "override": Command(
        "label.site:OverrideConfig",
        _run_override,
        "overrule the rules for one series, or for many by a checked file",
        'radnet-lake override 1.2.840.1 --label view --value axial --who "A. Reader" --why "seen"',
    ),
    "protocols": Command(
        "label.site:ProtocolsConfig",
        _run_protocols,
        "list the descriptions that most series without an answer share; add a protocol table",
        "radnet-lake protocols --lake lake",
    ),
    "export": Command(
        "label.export:ExportConfig",
        _run_export,
        "freeze the labels in one file, with rule set, lake version and counts",
        "radnet-lake export --lake lake -o labels.parquet",
    ),
    "query": Command(
        "lake.query:QueryConfig",
        _run_query,
        "ask the lake in SQL: instances, series, funnel, training_set, rejects, runs, ...",
        'radnet-lake query --lake lake "select Modality, count(*) from instances group by all"',
    ),
    "shell": Command(
        "lake.query:ShellConfig",
        _run_shell,
        "ask the lake in SQL, at a prompt",
        "radnet-lake shell --lake lake",
    ),
    "attach": Command(
        "lake.query:AttachConfig",
        _run_attach,
        "write a DuckDB file with the lake's views, for the plain duckdb command line",
        "radnet-lake attach lake lake.duckdb && duckdb lake.duckdb",
    ),
    "locate": Command(
        "lake.query:LocateConfig",
        _run_locate,
        "print the files of a series; opens sealed URIs, so it needs the key",
        "radnet-lake locate 1.2.840.113619.2.176 --lake lake",
    ),
    "compact": Command(
        "lake.compact:CompactConfig",
        _run_compact,
        "merge small files, drop rows that no longer count, delete unnamed files",
        "radnet-lake compact --lake lake",
    ),
    "phantom": Command(
        "phantom.phantom:PhantomConfig",
        _run_phantom,
        "write a procedural DICOM archive for demos and tests",
        "radnet-lake phantom archive --patients 4 --seed 7",
    ),
    "demo": Command(
        "cli.demo:DemoConfig",
        _run_demo,
        "make a phantom archive, harvest it, and say what to try next",
        "radnet-lake demo --out demo",
    ),
}

GROUPS = {"liver": "segment an organ with the pretrained network: the paper's Tables 2 and 3"}
"""First word of commands of two."""
