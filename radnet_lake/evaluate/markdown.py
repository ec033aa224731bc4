"""Markdown tables: takes rows of cells, gives text whose columns are aligned.

Not tabulate, which would be a dependency for 30 lines.
"""

NONE = "-"
FEW = 20
"""Patients: of fewer, percentile intervals hold the truth clearly less often than they say."""


def lay_table(rows: list[list[str]], sides: str) -> str:
    """A Markdown table whose columns also stand below each other as text. sides: l or r of each."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    rule = [
        "-" * w if s == "l" else "-" * (w - 1) + ":" for w, s in zip(widths, sides, strict=True)
    ]
    lines = []
    for cells in (rows[0], rule, *rows[1:]):
        padded = (
            c.ljust(w) if s == "l" else c.rjust(w)
            for c, w, s in zip(cells, widths, sides, strict=True)
        )
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)
