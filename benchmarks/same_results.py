"""Two checkouts, one result: run the whole pipeline with each, then compare what they wrote.

    python benchmarks/same_results.py run OUT ARCHIVE...      once per checkout, the same archives
    python benchmarks/same_results.py compare BEFORE AFTER    exit status 1 where anything differs

`run` uses the `radnet_lake` that Python imports, by its verbs alone: harvest, label, preprocess,
train, predict, and liver prepare and train, of every archive that has series for it. For changes of
the code that must change no label, row, volume or loss.
"""

import csv
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

TABLES = ("instances", "rejects", "series", "funnel", "label_counts", "volumes", "predictions")
# Names of runs and files, clocks, and the digest of the rules with their comments.
VARYING = (
    "run_id",
    "harvested_at",
    "made_at",
    "at",
    "rule_set",
    "version",
    "shard",
    "predicted_at",
)
VARYING_ENDS = ("_run_id", "_at", "_seconds", "rollup_version", "checkpoint")
TRAINING = [
    "--depth",
    "10",
    "--width",
    "4",
    "--epochs",
    "2",
    "--batch",
    "8",
    "--learning-rate",
    "0.002",
    "--seed",
    "3",
]
LIVER = ["--decoder-width", "4", "--epochs", "1", "--batch", "2", "--freeze", "all", "--seed", "3"]


def run_verb(*words: str, may_fail: bool = False) -> bool:
    """Run one command of the radnet_lake that Python imports."""
    code = "import sys; from radnet_lake.cli import main; sys.exit(main())"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment)
    if done.returncode and not may_fail:
        sys.exit(f"radnet-lake {' '.join(words)}: exit status {done.returncode}")
    return not done.returncode


def run_all(out: Path, archives: list[Path]) -> None:
    """Write OUT/<archive>/<table>.parquet, its volumes' digests, and the metrics of trainings."""
    run_verb("phantom", str(out / "phantom"), "--patients", "4", "--seed", "5")
    digests = [
        (str(path.relative_to(out)), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted((out / "phantom").rglob("*.dcm"))
    ]
    write_rows(out / "phantom.csv", digests)
    for archive in archives:
        folder = out / archive.name
        lake = str(folder / "lake")
        run_verb("harvest", str(archive), "--lake", lake, "--phi", "keep")
        run_verb("label", "--lake", lake)
        size = ["--slices", "16", "--rows", "48", "--columns", "48"]
        is_small = len(list(archive.rglob("*.dcm"))) < 15_000
        trains = is_small and run_verb("preprocess", "--lake", lake, *size, may_fail=True)
        if trains:
            run_verb("label", "--lake", lake)
            write_rows(folder / "volumes.csv", digest_volumes(lake))
            train = ["--out", str(folder / "run"), "--preprocessing", "16x48x48", *TRAINING]
            trains = run_verb("train", "--lake", lake, *train, may_fail=True)
        if trains:
            run_verb("predict", "--lake", lake, "--run", str(folder / "run"))
            cases = str(folder / "cases")
            prepare = ["--lake", lake, "--run", str(folder / "run"), "--out", cases]
            if run_verb("liver", "prepare", *prepare, may_fail=True):
                out_liver = ["--out", str(folder / "liver-run")]
                run_verb("liver", "train", "--cases", cases, *out_liver, *LIVER, may_fail=True)
        for table in TABLES:
            target = str(folder / f"{table}.parquet")
            ask = ["query", f"from {table}", "--lake", lake, "--format", "parquet", "-o", target]
            run_verb(*ask, may_fail=True)


def digest_volumes(lake: str) -> list[tuple[str, str]]:
    """SeriesInstanceUID and SHA-256 of the voxels of each stored volume of a lake."""
    rows: list[tuple[str, str]] = []
    for file in Path(lake, "tensors").rglob("*.arrow"):
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
        for uid, volume in zip(table["SeriesInstanceUID"], table["volume"], strict=True):
            voxels = np.asarray(volume.as_py(), np.uint8).tobytes()
            rows.append((uid.as_py(), hashlib.sha256(voxels).hexdigest()))
    return sorted(rows)


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    """One CSV without a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def compare(before: Path, after: Path) -> int:
    """Print each table with its rows and how many differ; the exit status."""
    wrong = 0
    for old in sorted(before.glob("*.csv")) + sorted(before.glob("*/*.csv")):
        new = after / old.relative_to(before)
        is_same = new.is_file() and old.read_bytes() == new.read_bytes()
        n = len(old.read_text().splitlines())
        wrong += report(f"{old.relative_to(before)}", n, 0 if is_same else n)
    for old in sorted(before.glob("*/*.parquet")):
        wrong += compare_tables(old, after / old.relative_to(before))
    for old in sorted(before.glob("*/*run/metrics.csv")):
        new = after / old.relative_to(before)
        rows = [drop_clocks(path) for path in (old, new)]
        differing = sum(a != b for a, b in zip(*rows, strict=False)) + abs(
            len(rows[0]) - len(rows[1])
        )
        wrong += report(str(old.relative_to(before)), len(rows[0]), differing)
    return int(wrong > 0)


def drop_clocks(path: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without what a clock measured."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if "seconds" not in k and "per_s" not in k} for row in rows
    ]


def compare_tables(old: Path, new: Path) -> int:
    """Report rows that only one of two Parquet files has, over the columns that may not vary."""
    name = f"{old.parent.name}/{old.stem}"
    if not new.is_file():
        return report(f"{name} is missing", 0, 1)
    with duckdb.connect() as connection:
        columns = [
            [row[0] for row in connection.sql(f"describe from '{path}'").fetchall()]
            for path in (old, new)
        ]
        lost = sorted(set(columns[0]) ^ set(columns[1]))
        if lost:
            print(f"  columns of one only: {', '.join(lost)}")
        kept = [
            column
            for column in columns[0]
            if column in columns[1] and column not in VARYING and not column.endswith(VARYING_ENDS)
        ]
        chosen = ", ".join(f'"{column}"' for column in kept)
        sides = [f"select {chosen} from '{path}'" for path in (old, new)]
        total = connection.sql(f"select count(*) from '{old}'").fetchall()[0][0]
        differing = 0
        for one, other in (sides, sides[::-1]):
            count = connection.sql(f"select count(*) from ({one} except all {other})").fetchall()
            differing += count[0][0]
        if differing:
            name_columns(connection, kept, old, new)
    return report(name, total, differing)


def name_columns(
    connection: duckdb.DuckDBPyConnection, kept: list[str], old: Path, new: Path
) -> None:
    """Say which columns differ, each by its own values."""
    for column in kept:
        sides = [f"select \"{column}\" from '{path}'" for path in (old, new)]
        if connection.sql(f"from ({sides[0]} except all {sides[1]}) limit 1").fetchall():
            print(f"  differs: {column}")


def report(name: str, rows: int, differing: int) -> int:
    """Print one line; the count of what differs."""
    print(f"{'DIFFERS' if differing else 'equal':8} {rows:>8} rows  {name}", flush=True)
    return differing


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", out, *archives] if archives:
            run_all(Path(out).resolve(), [Path(archive).resolve() for archive in archives])
        case ["compare", before, after]:
            sys.exit(compare(Path(before), Path(after)))
        case _:
            sys.exit(__doc__)
