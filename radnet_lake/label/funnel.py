"""What labelling found, as tables: the funnel, the label counts, where labels come from."""

import sys
from dataclasses import dataclass

from radnet_lake.label.label import LabelConfig, LabelReport, label
from radnet_lake.lake.freshness import warn_if_stale
from radnet_lake.lake.log import open_lake
from radnet_lake.lake.query import QueryConfig, query
from radnet_lake.lake.settings import PrintSettings
from radnet_lake.lake.sql import run_sql, write_table
from radnet_lake.lake.sql_files import read_query
from radnet_lake.lake.views import connect

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
    query(QueryConfig(sql=read_query("funnel_orders"), lake=lake.uri, format=config.format))


def label_and_print(config: LabelConfig) -> None:
    """Label the lake, then print what it gave. Raises as label does."""
    print_label(label(config))


def print_label(report: LabelReport) -> None:
    """The funnel, the counts of the training set, and what decided the labels, on stdout."""
    with connect(report.lake) as connection:
        for title, name in (
            (
                "exclusion funnel: first_hit in our order, paper_order in the paper's",
                "funnel_orders",
            ),
            ("training set by label (Table A3 of the paper)", "training_counts"),
            ("where the labels come from", "tier_shares"),
        ):
            reader = run_sql(connection, read_query(name))
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
    for place in report.unmatched[:10]:
        print(f"WARNING: {place}: the lake has no such series", file=sys.stderr)
    print(f"next      radnet-lake explain SERIES_UID --lake {report.lake}")
