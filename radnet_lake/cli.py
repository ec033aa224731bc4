"""The command line: COMMANDS, flags out of each command's settings, errors in a line."""

import argparse
import ast
import dataclasses
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from radnet_lake import __version__
from radnet_lake.errors import RadnetLakeError


class Command(NamedTuple):
    """One verb. The modules behind it are imported when it runs, for Ray alone takes a second.

    config: "module:Class" of the settings, whose fields are the flags. run: takes that and prints.
    """

    config: str
    run: Callable[[Any], None]
    summary: str
    example: str


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(__import__(f"radnet_lake.{module}", fromlist=[name]), name)


def _run_harvest(config: Any) -> None:
    from radnet_lake.harvest import harvest
    from radnet_lake.watch import HarvestWatch, print_harvest

    with HarvestWatch() as watch:
        report = harvest(config, watch)
    print_harvest(report)


def _run_label(config: Any) -> None:
    from radnet_lake.label import label
    from radnet_lake.summary import print_label

    print_label(label(config))


def _run_preprocess(config: Any) -> None:
    from radnet_lake.preprocess import preprocess
    from radnet_lake.watch import PreprocessWatch, print_preprocess

    with PreprocessWatch() as watch:
        report = preprocess(config, watch)
    print_preprocess(report)


def _run_train(config: Any) -> None:
    from radnet_lake.train import train
    from radnet_lake.watch import TrainWatch, print_train

    with TrainWatch() as watch:
        report = train(config, watch)
    print_train(report)


def _run_liver_train(config: Any) -> None:
    from radnet_lake.liver_train import train_liver
    from radnet_lake.watch import TrainWatch, print_train

    with TrainWatch("cases") as watch:
        report = train_liver(config, watch)
    print_train(report, "liver evaluate")


def _run_evaluate(config: Any) -> None:
    from radnet_lake.evaluate import evaluate
    from radnet_lake.watch import EvaluateWatch, print_evaluate

    with EvaluateWatch() as watch:
        report = evaluate(config, watch)
    print_evaluate(report)


def _run_predict(config: Any) -> None:
    from radnet_lake.predict import predict
    from radnet_lake.watch import PredictWatch, print_predict

    with PredictWatch() as watch:
        report = predict(config, watch)
    print_predict(report)


def _run_liver_evaluate(config: Any) -> None:
    from radnet_lake.liver_evaluate import evaluate_liver
    from radnet_lake.watch import EvaluateWatch, print_evaluate

    with EvaluateWatch("cases") as watch:
        report = evaluate_liver(config, watch)
    print_evaluate(report)


def _run_liver_sweep(config: Any) -> None:
    from radnet_lake.liver_sweep import sweep_liver
    from radnet_lake.watch import LiverSweepWatch, print_liver_sweep

    with LiverSweepWatch() as watch:
        report = sweep_liver(config, watch)
    print_liver_sweep(report)


def _run_liver_prepare(config: Any) -> None:
    from radnet_lake.liver_prepare import prepare_cases
    from radnet_lake.watch import LiverPrepareWatch, print_liver_prepare

    with LiverPrepareWatch() as watch:
        report = prepare_cases(config, watch)
    print_liver_prepare(report)


def _run_liver_segment(config: Any) -> None:
    from radnet_lake.liver_segment import segment_liver
    from radnet_lake.watch import LiverSegmentWatch, print_liver_segment

    with LiverSegmentWatch() as watch:
        report = segment_liver(config, watch)
    print_liver_segment(report)


def _run_funnel(config: Any) -> None:
    from radnet_lake.summary import funnel

    funnel(config)


def _run_explain(config: Any) -> None:
    from radnet_lake.explain import explain

    print(explain(config))


def _run_show(config: Any) -> None:
    from radnet_lake.show import show

    for line in show(config):
        print(line, flush=True)


def _run_override(config: Any) -> None:
    from radnet_lake.site import override

    print(f"{override(config)}\nnext: radnet-lake label, which applies it")


def _run_protocols(config: Any) -> None:
    from radnet_lake.site import protocols

    protocols(config)


def _run_export(config: Any) -> None:
    from radnet_lake.export import export

    for name, value in export(config).items():
        print(f"{name:14}{value}")


def _run_query(config: Any) -> None:
    from radnet_lake.query import query

    query(config)


def _run_shell(config: Any) -> None:
    from radnet_lake.query import run_shell

    run_shell(config)


def _run_attach(config: Any) -> None:
    from radnet_lake.lake import attach

    attach(config.lake, config.database)
    print(f'{config.database} is written; try: duckdb {config.database} "from instances limit 5"')


def _run_compact(config: Any) -> None:
    from radnet_lake.compact import compact

    r = compact(config)
    print(
        f"{r.files_before} files became {r.files_after}; {r.rows_dropped} rows dropped,"
        f" {r.files_deleted} files deleted"
    )


def _run_phantom(config: Any) -> None:
    from radnet_lake.phantom import phantom

    r = phantom(config)
    print(f"{r}\nnext: radnet-lake harvest {config.out} --lake LAKE --phi keep")


def _run_locate(config: Any) -> None:
    from radnet_lake.query import locate

    for uri in locate(config):
        print(uri)


def _run_demo(config: Any) -> None:
    from radnet_lake.demo import demo

    demo(config)


COMMANDS: dict[str, Command] = {
    "harvest": Command(
        "harvest:HarvestConfig",
        _run_harvest,
        "crawl DICOM files on disk or S3 into a header lake",
        "radnet-lake harvest /archive s3://pacs/2019 --lake s3://lakes/ct --collection pacs",
    ),
    "label": Command(
        "label:LabelConfig",
        _run_label,
        "label every series by its headers; print the funnel and the label counts",
        "radnet-lake label --lake lake --mode default",
    ),
    "preprocess": Command(
        "preprocess:PreprocessConfig",
        _run_preprocess,
        "turn the series of the training set into volumes of one size",
        "radnet-lake preprocess --lake lake --where \"sequence = 'T2-FLAIR'\"",
    ),
    "train": Command(
        "train_plan:TrainConfig",
        _run_train,
        "train the network on the volumes and labels of the training set",
        "radnet-lake train --lake lake --out run --depth 18 --width 16 --epochs 20",
    ),
    "evaluate": Command(
        "evaluate:EvaluateConfig",
        _run_evaluate,
        "print Table 1 of a training run, the paper's numbers beside it; draw its pictures",
        "radnet-lake evaluate run --split test",
    ),
    "predict": Command(
        "predict:PredictConfig",
        _run_predict,
        "write what a trained network says of a lake's series, and its features, into the lake",
        "radnet-lake predict --run run --lake lake",
    ),
    "liver train": Command(
        "liver_plan:LiverTrainConfig",
        _run_liver_train,
        "train a segmentation network on the pretrained, frozen encoder",
        "radnet-lake liver train --cases cases --out liver --freeze all --epochs 50",
    ),
    "liver evaluate": Command(
        "liver_evaluate:LiverEvaluateConfig",
        _run_liver_evaluate,
        "print Dice and IoU of a segmenter's run, the paper's Table 2 beside them; draw cases",
        "radnet-lake liver evaluate liver-run --split test",
    ),
    "liver sweep": Command(
        "liver_trial:LiverSweepConfig",
        _run_liver_sweep,
        "train and measure every row of the paper's Tables 2 and 3, over seeds; print the tables",
        "radnet-lake liver sweep --cases cases --out sweep --seeds 3 --epochs 50",
    ),
    "liver prepare": Command(
        "liver_prepare:LiverPrepareConfig",
        _run_liver_prepare,
        "make cases of CT and mask, and let the pretrained network choose their windows",
        "radnet-lake liver prepare --lits LITS --run run --out cases",
    ),
    "liver segment": Command(
        "liver_segment:LiverSegmentConfig",
        _run_liver_segment,
        "write masks of CT series, or of files, as DICOM SEG, NIfTI and pictures",
        "radnet-lake liver segment liver-run --lake lake --out masks --largest",
    ),
    "funnel": Command(
        "summary:FunnelConfig",
        _run_funnel,
        "print how many series each exclusion takes",
        "radnet-lake funnel --lake lake --format csv",
    ),
    "explain": Command(
        "explain:ExplainConfig",
        _run_explain,
        "say in words why a series has its labels, and why it is excluded",
        "radnet-lake explain 1.2.840.113619.2.176 --lake lake",
    ),
    "show": Command(
        "show:ShowConfig",
        _run_show,
        "draw a series before and after preprocessing, or many on a sheet",
        "radnet-lake show 1.2.840.113619.2.176 --lake lake -o out.png",
    ),
    "override": Command(
        "site:OverrideConfig",
        _run_override,
        "overrule the rules for one series, or for many by a checked file",
        'radnet-lake override 1.2.840.1 --label view --value axial --who "A. Reader" --why "seen"',
    ),
    "protocols": Command(
        "site:ProtocolsConfig",
        _run_protocols,
        "list the descriptions that most series without an answer share; add a protocol table",
        "radnet-lake protocols --lake lake",
    ),
    "export": Command(
        "export:ExportConfig",
        _run_export,
        "freeze the labels in one file, with rule set, lake version and counts",
        "radnet-lake export --lake lake -o labels.parquet",
    ),
    "query": Command(
        "query:QueryConfig",
        _run_query,
        "ask the lake in SQL: instances, series, funnel, training_set, rejects, runs, ...",
        'radnet-lake query --lake lake "select Modality, count(*) from instances group by all"',
    ),
    "shell": Command(
        "query:ShellConfig",
        _run_shell,
        "ask the lake in SQL, at a prompt",
        "radnet-lake shell --lake lake",
    ),
    "attach": Command(
        "query:AttachConfig",
        _run_attach,
        "write a DuckDB file with the lake's views, for the plain duckdb command line",
        "radnet-lake attach lake lake.duckdb && duckdb lake.duckdb",
    ),
    "locate": Command(
        "query:LocateConfig",
        _run_locate,
        "print the files of a series; opens sealed URIs, so it needs the key",
        "radnet-lake locate 1.2.840.113619.2.176 --lake lake",
    ),
    "compact": Command(
        "compact:CompactConfig",
        _run_compact,
        "merge small files, drop rows that no longer count, delete unnamed files",
        "radnet-lake compact --lake lake",
    ),
    "phantom": Command(
        "phantom:PhantomConfig",
        _run_phantom,
        "write a procedural DICOM archive for demos and tests",
        "radnet-lake phantom archive --patients 4 --seed 7",
    ),
    "demo": Command(
        "demo:DemoConfig",
        _run_demo,
        "make a phantom archive, harvest it, and say what to try next",
        "radnet-lake demo --out demo",
    ),
}

GROUPS = {"liver": "segment an organ with the pretrained network: the paper's Tables 2 and 3"}
"""First word of commands of two."""

NEEDED_TO_TRAIN = ("torch", "sklearn")
"""Packages of the extra `train`; harvesting and labelling do without."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 failed work, 2 a wrong setting."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        command, config_values = _parse(words)
        config = _import(command.config)(**config_values)
        command.run(config)
        sys.stdout.flush()
    except RadnetLakeError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except ModuleNotFoundError as error:
        if debug or error.name not in NEEDED_TO_TRAIN:
            raise
        remedy = "pip install 'radnet_lake[train]'"
        print(f"error: {error.name}: is not installed; {remedy}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here (train --resume)", file=sys.stderr)
        return 130
    return 0


def run_job(verb: str) -> None:
    """What jobs/<verb>.py do: the same command with the same options, as a Ray job."""
    sys.exit(main([verb, *sys.argv[1:]]))


def _parse(words: list[str]) -> tuple[Command, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="radnet-lake",
        description="DICOM archives to labels by their headers.",
        epilog="example: make a lake and ask it\n"
        "  radnet-lake harvest FOLDER --lake lake --phi keep\n"
        '  radnet-lake query --lake lake "from runs"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"radnet_lake {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    groups = {
        name: verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        for name, text in GROUPS.items()
    }
    acts = {
        name: group.add_subparsers(dest="act", required=True, metavar="ACT")
        for name, group in groups.items()
    }
    # Only the settings of the command that is asked for are imported.
    plain = [word for word in words if not word.startswith("-")]
    asked = next((name for name in (" ".join(plain[:2]), *plain[:1]) if name in COMMANDS), None)
    parsers = {}
    for name, command in COMMANDS.items():
        group, _, act = name.rpartition(" ")
        verb = (acts[group] if group else verbs).add_parser(
            act,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_argument("--debug", action="store_true", help="show where an error comes from")
        parsers[name] = verb
        if name == asked:
            _add_flags(verb, _import(command.config))
    values = vars(parser.parse_args(words))
    name = " ".join(filter(None, (values["verb"], values.get("act"))))
    config = _import(COMMANDS[name].config)
    if hasattr(config, "read_defaults"):
        # Of an earlier run, or out of a file; flags overrule them.
        parsers[name].set_defaults(**config.read_defaults(values))
        values = vars(parser.parse_args(words))
    for word in ("verb", "act", "debug"):
        values.pop(word, None)
    return COMMANDS[name], values


def _add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """One flag per field: its docstring is the help; metadata "positional" names an argument."""
    texts = _read_field_texts(config)
    for field in dataclasses.fields(config):
        text = texts[field.name]
        required = field.default is dataclasses.MISSING
        if not required and field.default not in ("", None, False, True):
            text += f" (default: {field.default})"
        kind = type(field.default) if isinstance(field.default, int | float) else str
        text = text.replace("%", "%%")
        metavar = field.metadata.get("positional")
        if metavar:
            many = "tuple" in str(field.type)
            several = ("+" if required else "*") if many else None if required else "?"
            default = None if required else field.default
            parser.add_argument(
                field.name, metavar=metavar, nargs=several, default=default, help=text
            )
            continue
        flag = "--" + field.name.replace("_", "-")
        short = [field.metadata["short"]] if "short" in field.metadata else []
        if field.default is False:
            # Where defaults may come from elsewhere, a flag must be able to say no, too.
            both = argparse.BooleanOptionalAction if hasattr(config, "read_defaults") else None
            action: Any = both or "store_true"
            parser.add_argument(*short, flag, action=action, default=False, help=text)
        else:
            parser.add_argument(
                *short,
                flag,
                type=kind,
                default=None if required else field.default,
                required=required,
                choices=field.metadata.get("choices"),
                metavar=None if "choices" in field.metadata else field.name.upper(),
                help=text,
            )


def _read_field_texts(config: type) -> dict[str, str]:
    """The string that stands under each field of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            value = text.value if isinstance(text, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                texts[field.target.id] = " ".join(value.value.split())
    return texts
