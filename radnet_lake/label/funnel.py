"""What labelling found, as tables: the funnel, the label counts, where labels come from."""

import sys
from dataclasses import dataclass

from radnet_lake.label.label import LabelConfig, LabelReport, label
from radnet_lake.lake.freshness import warn_if_stale
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.query import QueryConfig, query
from radnet_lake.lake.settings import PrintSettings
from radnet_lake.lake.sql import run_sql, write_table
from radnet_lake.lake.views import connect

FUNNEL = """
    select
        d.reason, d.first_hit, p.first_hit as paper_order, d.marginal, d.remaining,
        d.remaining_patients as patients, d.salvageable, d.meaning
    from funnel as d
    inner join funnel as p on d.reason = p.reason and p.attribution = 'paper'
    where d.attribution = 'default'
    order by d.step
"""
COUNTS = """
    select label, value, train, validation, test, total
    from label_counts
    where division = 'hash'
"""
TIERS = """
    select
        label,
        sum(decided) as labelled,
        sum(in_conflict) as conflicts,
        string_agg(tier || ' ' || share || '%', ', ' order by share desc) as decided_by
    from (
        select
            label, tier, sum(decided) as decided, sum(in_conflict) as in_conflict,
            round(100 * sum(decided) / sum(sum(decided)) over (partition by label))::int as share
        from rule_use
        where decided > 0
        group by label, tier
    )
    group by label
    order by label
"""
FEW_DESCRIPTIONS = 0.1
"""Below this share of described series the archive was stripped of its words, not careless."""


@dataclass(frozen=True, kw_only=True)
class FunnelConfig(PrintSettings):
    """Settings of the funnel."""


def funnel(config: FunnelConfig) -> None:
    """Print what each exclusion takes, in our order and in the paper's. Raises LakeError."""
    lake = open_lake(config.lake)
    stale = warn_if_stale(lake)
    if stale:
        print(f"note: {stale}", file=sys.stderr)
    query(QueryConfig(sql=FUNNEL, lake=lake.uri, format=config.format))


def label_and_print(config: LabelConfig) -> None:
    """Label the lake, then print what it gave. Raises as label does."""
    print_label(label(config))


def print_label(report: LabelReport) -> None:
    """The funnel, the counts of the training set, and what decided the labels, on stdout."""
    with connect(report.lake) as connection:
        for title, sql in (
            ("exclusion funnel: first_hit in our order, paper_order in the paper's", FUNNEL),
            ("training set by label (Table A3 of the paper)", COUNTS),
            ("where the labels come from", TIERS),
        ):
            reader = run_sql(connection, sql)
            if reader is not None:
                print(f"\n{title}")
                write_table(reader, sys.stdout)
    print(
        f"\nlabelled  {report.series} series: {report.kept} kept"
        f" + {report.series - report.kept} excluded; mode {report.mode}, rules {report.rule_set}"
    )
    rolled = report.rollup
    print(
        f"rolled up {rolled.rolled} of {rolled.series} series anew; {report.seconds:.1f} s in all"
    )
    if report.images and report.undescribed > (1 - FEW_DESCRIPTIONS) * report.images:
        print(
            f"WARNING: {report.undescribed} of {report.images} series have no description: the"
            " archive was de-identified without the Clean Descriptors option (PS3.15 E.3.5)."
            " Labels need the descriptions; ask its source for them, cleaned.",
            file=sys.stderr,
        )
    for place in report.strangers[:10]:
        print(f"WARNING: {place}: the lake has no such series", file=sys.stderr)
    print(f"next      radnet-lake explain SERIES_UID --lake {report.lake}")
