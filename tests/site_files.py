"""Overrides and protocols of a site, as the files that people write."""

from typing import Any

from radnet_lake.label.site_csv import OVERRIDES, read_rows

HEADER = ",".join(OVERRIDES.columns)


GOOD = "1.2.3.1,view,axial,A. Reader,2026-01-31,seen"


RULE = {
    "protocol": "brain", "match_on": "SeriesDescription", "pattern": "flair", "modality": "",
    "valid_from": "", "valid_to": "", "sequence": "T2-FLAIR", "view": "", "contrast": "",
    "coverage": "", "time_series": "", "trust_extent": "", "approved_by": "B. Physicist",
    "when": "2026-01-31", "why": "house protocol",
}  # fmt: skip


def parse_overrides(*lines: str, header: str = HEADER) -> list[dict[str, Any]]:
    return read_rows("\n".join([header, *lines]).encode(), OVERRIDES, "a.csv")


def write_protocols(*changes: dict[str, str]) -> bytes:
    lines = [",".join(f'"{text}"' for text in (RULE | change).values()) for change in changes]
    return "\n".join([",".join(RULE), *lines]).encode()
