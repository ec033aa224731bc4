"""Tables 2 and 3 of a sweep, and frozen against scratch, as Markdown and CSV beside the paper's."""

import csv
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from radnet_lake.evaluate.markdown import FEW, lay_table
from radnet_lake.evaluate.paper import MED3D_DICE, SPLIT, TABLE2, TABLE3, SegmentationScores
from radnet_lake.transfer.sweep.statistics import (
    PLAIN,
    RESAMPLES,
    Difference,
    Results,
    Setting,
    Summary,
    compare,
    summarise,
)

FROZEN = Setting()
SCRATCH = Setting("scratch")
MEASURES = ("mean_dice", "mean_iou", "median_dice", "median_iou")
NONE = "-"


@dataclass(frozen=True)
class Facts:
    """On what the tables rest.

    planned: all settings, in the order of the tables; seeds: of each. cases: of each split;
    train_cases: of each setting that is done, smallest and largest over the seeds. known: test
    cases whose patient the pretrained network has learned from; unknown: of whom nothing tells.
    init: first weights that are not that network's. failed: trial -> reason. trials:
    planned; done: measured. notes: what a reader must know besides, as that cases are phantoms.
    """

    organ: str
    planned: tuple[Setting, ...]
    seeds: int
    cases: dict[str, int]
    trials: int
    done: int
    training: str = ""
    known: int = 0
    unknown: int = 0
    init: str = ""
    train_cases: dict[Setting, tuple[int, int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def list_freezes(self) -> list[Setting]:
        """Rows of Table 2."""
        return [s for s in self.planned if s.share == 1 and s.encoder == "radnet"]

    def list_shares(self) -> list[Setting]:
        """Rows of Table 3, the largest share first."""
        some = [s for s in self.planned if s.freeze == "all" and s.encoder == "radnet"]
        is_asked = any(s.share < 1 for s in some)
        return sorted(some, key=lambda s: -s.share) if is_asked else []

    def list_pairs(self) -> list[tuple[Setting, Setting]]:
        """Frozen and from scratch of the same share, the largest first; [] if only of all."""
        shares = sorted({s.share for s in self.planned if s.freeze == "scratch"}, reverse=True)
        pairs = [(Setting(share=share), Setting("scratch", share)) for share in shares]
        pairs = [pair for pair in pairs if pair[0] in self.planned]
        return pairs if any(share < 1 for share in shares) else []

    def list_foreign(self) -> list[Setting]:
        """Settings with another encoder's weights."""
        return [s for s in self.planned if s.encoder != "radnet"]


class Extra(NamedTuple):
    """A row beyond the paper. against: what it is compared with; found: None if that is missing."""

    setting: Setting
    method: str
    against: str
    found: Difference | None


def name_setting(setting: Setting) -> str:
    """What a person calls it, in the paper's words."""
    printed = TABLE2.get(setting.freeze)
    text = printed.title if printed else f"freeze {setting.freeze}"
    if setting.encoder != "radnet":
        text = f"MedicalNet weights: {_lower(text)}"
    return text if setting.share == 1 else f"{text}, {100 * setting.share:g} % of the cases"


def format_tables(results: Results, facts: Facts) -> dict[str, bytes]:
    """tables.md, table2.csv, table3.csv, transfer.csv and extras.csv by file name.

    Of what is done so far.
    """
    summaries = {key: summarise(result) for key, result in results.items()}
    is_liver = facts.organ == "liver"
    printed = {s: TABLE2.get(s.freeze) if is_liver else None for s in facts.list_freezes()}
    shares = {s: TABLE3.get(s.share) if is_liver else None for s in facts.list_shares()}
    extras = _list_extras(results, facts)
    parts = [
        f"# {facts.organ.capitalize()} by transfer: Tables 2 and 3",
        *_describe(facts),
        "## Table 2: by what is frozen",
        _lay_rows(printed, summaries, facts, {s: name_setting(s) for s in printed}),
        judge_transfer(results),
    ]
    if shares:
        names = {s: f"{100 * s.share:g} % {_say_cases(facts.train_cases.get(s))}" for s in shares}
        parts += [
            "## Table 3: by share of the training patients, all layers frozen",
            _lay_rows(shares, summaries, facts, names),
            judge_shares(results, facts),
        ]
    if pairs := facts.list_pairs():
        parts += [
            "## Beyond the paper: frozen against scratch, by share of the training patients",
            _lay_pairs(pairs, results, summaries, facts),
        ]
    if extras:
        parts += [
            "## Beyond the paper: what each step adds",
            _lay_extras(extras, summaries, facts.organ),
        ]
    parts += _explain(results, facts)
    return {
        "tables.md": ("\n\n".join(filter(None, parts)) + "\n").encode(),
        "table2.csv": _format_csv(printed, summaries, facts).encode(),
        "table3.csv": _format_csv(shares, summaries, facts).encode(),
        "transfer.csv": _format_pairs(pairs, results, summaries).encode(),
        "extras.csv": _format_extras(extras, summaries).encode(),
    }


def judge_transfer(results: Results) -> str:
    """By how much the frozen, pretrained encoder is ahead of training from scratch, in words."""
    if not (found := _compare_pair((FROZEN, SCRATCH), results)):
        return "Frozen against scratch: not both are measured yet."
    paper = TABLE2["all"].mean_dice - TABLE2["scratch"].mean_dice
    ahead = "ahead of" if found.mean >= 0 else "BEHIND"
    text = (
        f"The frozen pretrained encoder is {abs(found.mean):.1f} points of mean Dice {ahead}"
        f" training from scratch ({_say_interval(found)}; of each seed"
        f" {', '.join(f'{d:+.1f}' for d in found.by_seed)}; ahead in {100 * found.better:.0f} % of"
        f" {found.cases} cases). The paper: {paper:.1f} points."
    )
    if not found.is_clear:
        text += " NOT SHOWN TO DIFFER: no interval that leaves out zero."
    return f"**{text}**"


def judge_shares(results: Results, facts: Facts) -> str:
    """Whether more training cases give a higher Dice at every step, in words."""
    done = [s for s in facts.list_shares() if (s, PLAIN) in results]
    if len(done) < 2:
        return "Order of the shares: not two are measured yet."
    compared, steps = [], list(itertools.pairwise(done))
    for more, fewer in [*steps, *([(done[0], done[-1])] if len(steps) > 1 else [])]:
        found = compare(results[more, PLAIN], results[fewer, PLAIN])
        if not found:
            continue
        pair = f"{100 * more.share:g} % against {100 * fewer.share:g} %"
        compared.append((f"{pair} {found.mean:+.1f} ({_say_interval(found)})", found))
    wrong = [text for text, found in compared[: len(steps)] if found.mean < 0]
    holds = "holds: each larger share has the higher mean Dice" if not wrong else "DOES NOT HOLD"
    unclear = sum(not found.is_clear for _, found in compared[: len(steps)])
    text = f"**The order of the shares {holds}.** Points: {'; '.join(t for t, _ in compared)}."
    if unclear:
        text += f" {unclear} of {len(steps)} steps have no interval that leaves out zero."
    return f"{text} The paper's own order does not hold: 40 % is above 60 % and 80 %."


def _describe(facts: Facts) -> list[str]:
    counts = ", ".join(f"{name} {n}" for name, n in facts.cases.items())
    lines = [f"- cases: {counts}; validation and test are the same for all rows"]
    if facts.training:
        lines.append(f"- training, the same for all rows: {facts.training}")
    if facts.done < facts.trials:
        lines.append(f"- UNFINISHED: {facts.done} of {facts.trials} trials are measured")
    if facts.known:
        what = f"the patients of {facts.known} test cases were in the pretraining of the network"
        lines.append(f"- NOT INDEPENDENT: {what}")
    elif facts.unknown:
        what = f"the patients of {facts.unknown} test cases is not known"
        lines.append(f"- whether the pretrained network knows {what}")
    if facts.init:
        lines.append(f"- first weights: {facts.init}; whether they know the patients is not known")
    lines += [f"- FAILED: {name}: {reason}" for name, reason in sorted(facts.failed.items())]
    counts = " / ".join(map(str, SPLIT.values()))
    lines.append(f"- paper: liver, LiTS, {counts} cases, one seed; so not like for like")
    return [*(f"**{note}**" for note in facts.notes), "\n".join(lines)]


def _lay_rows(
    rows: dict[Setting, SegmentationScores | None],
    summaries: dict[tuple[Setting, str], Summary],
    facts: Facts,
    names: dict[Setting, str],
) -> str:
    head = ["", "seeds", "test cases", "mean Dice", "95 % interval", "SD of seeds"]
    short = ["mean IoU", "median Dice", "median IoU"]
    table = [[*head, *short, "paper: mean Dice", *short]]
    for setting, printed in rows.items():
        s = summaries.get((setting, PLAIN))
        paper = [_say(getattr(printed, name, None)) for name in MEASURES]
        ours = [NONE] * 7
        if s:
            ours = [str(s.cases), _say(s.mean_dice), _say_range(s.low, s.high), _say(s.spread)]
            ours += [_say(getattr(s, name)) for name in MEASURES[1:]]
        seeds = f"{s.seeds if s else 0} of {facts.seeds}"
        table.append([names[setting], seeds, *ours, *paper])
    return lay_table(table, "l" + "r" * 12)


def _lay_pairs(
    pairs: list[tuple[Setting, Setting]],
    results: Results,
    summaries: dict[tuple[Setting, str], Summary],
    facts: Facts,
) -> str:
    head = ["", "seeds", "frozen: mean Dice", "scratch: mean Dice", "points", "95 % interval"]
    table = [[*head, "of each seed", "ahead in"]]
    for pair in pairs:
        found = _compare_pair(pair, results)
        name = f"{100 * pair[0].share:g} % {_say_cases(facts.train_cases.get(pair[1]))}"
        dice = [_say(s.mean_dice if (s := summaries.get((p, PLAIN))) else None) for p in pair]
        cells = [NONE] * 4
        if found:
            cells = [f"{found.mean:+.1f}", _say_range(found.low, found.high, "+.1f")]
            cells += [", ".join(f"{d:+.1f}" for d in found.by_seed)]
            cells += [f"{100 * found.better:.0f} % of {found.cases} cases"]
        seeds = f"{len(found.by_seed) if found else 0} of {facts.seeds}"
        table.append([name, seeds, *dice, *cells])
    return lay_table(table, "lrrrrrrr")


def _compare_pair(pair: tuple[Setting, Setting], results: Results) -> Difference | None:
    one, other = (results.get((setting, PLAIN)) for setting in pair)
    return compare(one, other) if one and other else None


def _list_extras(results: Results, facts: Facts) -> list[Extra]:
    extras = []
    for setting in facts.list_freezes():
        plain = results.get((setting, PLAIN))
        for s, method in results:
            if s == setting and method != PLAIN and plain:
                found = compare(results[s, method], plain)
                extras.append(Extra(s, method, "plain", found))
    for setting in facts.list_foreign():
        for s, method in results:
            if s == setting:
                like = s._replace(encoder="radnet")
                like = like if (like, method) in results else FROZEN
                other = results.get((like, method))
                found = compare(results[s, method], other) if other else None
                extras.append(Extra(s, method, f"3D-RADNet, {_lower(name_setting(like))}", found))
    return extras


def _lay_extras(
    extras: list[Extra], summaries: dict[tuple[Setting, str], Summary], organ: str
) -> str:
    head = ["", "method", "seeds", "mean Dice", "against", "points", "95 % interval", "ahead in"]
    table = [[*head, "paper: mean Dice"]]
    for setting, method, against, found in extras:
        s = summaries[setting, method]
        is_med3d = setting.encoder != "radnet" and method == PLAIN and organ == "liver"
        paper = MED3D_DICE if is_med3d else None
        cells = [NONE] * 3
        if found:
            cells = [f"{found.mean:+.1f}", _say_range(found.low, found.high, "+.1f")]
            cells.append(f"{100 * found.better:.0f} % of {found.cases} cases")
        cells.append(f"{paper} (MED3D)" if paper else NONE)
        ours = [method, str(s.seeds), _say(s.mean_dice), against]
        table.append([name_setting(setting), *ours, *cells])
    return lay_table(table, "llrrlrrrr")


def _explain(results: Results, facts: Facts) -> list[str]:
    patients = min((s for s in (len(set(r.patients)) for r in results.values())), default=0)
    left_out = max((r.left_out for r in results.values()), default=0)
    few = " Of so few patients they are too narrow." if 0 < patients < FEW else ""
    lines = [
        "- Percent. Dice and IoU are of the whole case on its own grid: what no chosen window holds"
        " counts as background. Each number is the mean over seeds of that over cases.",
        f"- 95 % intervals: {RESAMPLES} bootstrap resamples of {patients} patients, each with all"
        f" cases.{few} Of differences the seeds are drawn anew too: few seeds make them too narrow."
        " Differences are paired: same cases, same seeds.",
        "- SD of seeds: first weights of the decoder, order, and in Table 3 which patients too.",
        "- The checkpoint of the lowest validation loss (without validation cases, training loss)"
        " is measured; nothing was chosen on the test cases.",
        "- The paper's row of all layers frozen stands in both its tables with other numbers, and"
        " its mean IoU is below what its mean Dice allows: see radnet_lake/evaluate/paper.py.",
        f"- MED3D's {MED3D_DICE} is what the paper cites, of other test cases.",
    ]
    if left_out:
        lines.insert(1, f"- Left out: up to {left_out} test cases that not every seed could do.")
    return ["## How to read it", "\n".join(lines)]


def _format_csv(
    rows: dict[Setting, SegmentationScores | None],
    summaries: dict[tuple[Setting, str], Summary],
    facts: Facts,
) -> str:
    """Percent; empty where there is none."""
    numbers = Summary._fields[3:]
    head = ["freeze", "share", "train_cases", "seeds", "cases", "patients", *numbers]
    lines: list[Sequence[object]] = [[*head, *(f"paper_{name}" for name in MEASURES)]]
    for setting, printed in rows.items():
        if s := summaries.get((setting, PLAIN)):
            values = [*s[:3], *map(_plain, s[3:])]
        else:
            values = [0, *[""] * (len(Summary._fields) - 1)]
        cases = "-".join(map(str, dict.fromkeys(facts.train_cases.get(setting, ()))))
        paper = [_plain(getattr(printed, name, math.nan)) for name in MEASURES]
        lines.append([setting.freeze, f"{setting.share:g}", cases, *values, *paper])
    return _join_csv(lines)


def _format_extras(
    extras: list[Extra],
    summaries: dict[tuple[Setting, str], Summary],
) -> str:
    head = ["encoder", "freeze", "method", "seeds", "mean_dice", "mean_iou", "against"]
    lines: list[Sequence[object]] = [[*head, "difference", "low", "high", "better"]]
    for setting, method, against, found in extras:
        s = summaries[setting, method]
        cells = [*map(_plain, found[:3]), _plain(100 * found.better)] if found else [""] * 4
        means = (_plain(s.mean_dice), _plain(s.mean_iou))
        lines.append([setting.encoder, setting.freeze, method, s.seeds, *means, against, *cells])
    return _join_csv(lines)


def _format_pairs(
    pairs: list[tuple[Setting, Setting]],
    results: Results,
    summaries: dict[tuple[Setting, str], Summary],
) -> str:
    head = ["share", "seeds", "frozen_mean_dice", "scratch_mean_dice", "difference", "low", "high"]
    lines: list[Sequence[object]] = [[*head, "better"]]
    for pair in pairs:
        found = _compare_pair(pair, results)
        dice = [
            _plain(s.mean_dice) if (s := summaries.get((setting, PLAIN))) else ""
            for setting in pair
        ]
        cells = [*map(_plain, found[:3]), _plain(100 * found.better)] if found else [""] * 4
        seeds = len(found.by_seed) if found else 0
        lines.append([f"{pair[0].share:g}", seeds, *dice, *cells])
    return _join_csv(lines)


def _join_csv(lines: Sequence[Sequence[object]]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(lines)
    return sink.getvalue()


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _say(value: float | None) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:.1f}"


def _say_range(low: float, high: float, how: str = ".1f") -> str:
    return NONE if math.isnan(low) else f"{low:{how}} to {high:{how}}"


def _say_interval(found: Difference) -> str:
    if math.isnan(found.low):
        return "no interval of one patient"
    return f"95 % interval {found.low:+.1f} to {found.high:+.1f}"


def _say_cases(counts: tuple[int, int] | None) -> str:
    if not counts:
        return ""
    low, high = counts
    return f"(n={low})" if low == high else f"(n={low} to {high})"


def _lower(title: str) -> str:
    return title[0].lower() + title[1:]
