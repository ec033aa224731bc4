"""The command line: words come in, flags of each command's settings; an act is called, its report
printed, an error is one line.

It is argparse and 80 lines of ours. cyclopts 5.5 was tried in its place: a mistyped command then
takes 4.4 s of CPU (0.04 s here), for it imports the modules of every command, and `query` 0.69 s
(0.65 s); positional arguments, choices, and defaults out of an earlier run would stay ours.
"""

import argparse
import ast
import dataclasses
import inspect
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

from radnet_lake import __version__
from radnet_lake.cli.commands import COMMANDS, GROUPS
from radnet_lake.errors import RadnetLakeError


def import_name(path: str) -> Any:
    """What "module:name" in this package is."""
    module, _, name = path.partition(":")
    return getattr(__import__(f"radnet_lake.{module}", fromlist=[name]), name)


NEEDED_TO_TRAIN = ("torch", "sklearn")
"""Packages of the extra `train`; harvesting and labelling do without."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 failed work, 2 a wrong setting."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        name, values = _parse(words)
        run_command(name, import_name(COMMANDS[name].settings)(**values))
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


def run_command(name: str, config: Any) -> None:
    """Call the act of a command, show how far it is, and print what it returns."""
    act = import_name(COMMANDS[name].act)
    if "progress" not in inspect.signature(act).parameters:
        _print_report(act(config))
        return
    # tqdm takes a while to import.
    from radnet_lake.cli.progress import ProgressBar

    with ProgressBar(name.split()[-1]) as progress:
        report = act(config, progress)
    _print_report(report)


def _print_report(report: Any) -> None:
    """A report as its text, a mapping as a table, another collection line by line."""
    if isinstance(report, Mapping):
        report = [f"{name:14}{value}" for name, value in report.items()]
    elif report is None:
        report = []
    elif isinstance(report, str) or not isinstance(report, Iterable):
        report = [report]
    for line in report:
        print(line, flush=True)


def run_job(verb: str) -> None:
    """What jobs/<verb>.py do: the same command with the same options, as a Ray job."""
    sys.exit(main([verb, *sys.argv[1:]]))


def _parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Words of a command line -> name of the command, values of its settings."""
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
            _add_flags(verb, import_name(command.settings))
    begins = asked.split() if asked else []
    if not asked or words[: len(begins)] != begins:
        parser.parse_args(words)  # tells what is wrong, or answers --help and --version
        parser.error("options come after the command")
    rest = words[len(begins) :]
    # So that positional arguments may stand before flags and after.
    values = vars(parsers[asked].parse_intermixed_args(rest))
    config = import_name(COMMANDS[asked].settings)
    if hasattr(config, "read_defaults"):
        # Of an earlier run, or out of a file; flags overrule them.
        parsers[asked].set_defaults(**config.read_defaults(values))
        values = vars(parsers[asked].parse_intermixed_args(rest))
    values.pop("debug", None)
    return asked, values


def _add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """One flag per field: its docstring is the help; metadata "positional" names an argument."""
    texts = read_field_texts(config)
    # What must be given stands first, whichever class it comes from.
    for field in sorted(dataclasses.fields(config), key=lambda f: f.default is not MISSING):
        text = texts[field.name]
        required = field.default is MISSING
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


def read_field_texts(config: type) -> dict[str, str]:
    """Dataclass -> the string under each field, its own or that of the class it inherits from."""
    texts: dict[str, str] = {}
    for one in reversed(config.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                value = text.value if isinstance(text, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    texts[field.target.id] = " ".join(value.value.split())
    return texts
