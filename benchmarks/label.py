"""Labelling, timed on a synthetic lake: a table on standard output.

    python benchmarks/label.py --rows 1000000 10000000

Seconds are the better of two runs, each in a process of its own with two threads; ratios hold
within one run on one machine. Parts are as a compaction leaves them: 400,000 rows of one modality,
sorted by series, about a hundred instances each. `valid` has regular stacks only; in `mixed` one
series in ten repeats, lacks a slice, holds a scout or contradicts itself. The bare query groups by
series: count, least and greatest of twelve columns, positions along the normal, sorted, and their
gaps.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from radnet_lake import schema
from radnet_lake.label.label import LabelConfig, label
from radnet_lake.label.rollup import refresh_rollup
from radnet_lake.lake.compact import FULL_ROWS
from radnet_lake.lake.log import Lake, create_lake, name_partition, open_lake
from radnet_lake.lake.views import connect

ROOT = Path(__file__).parent.parent
PER_SERIES = 100
THREADS = 2

_SERIES = """
create or replace macro r(x, k) as (hash(x * 1000 + k) % 1000003) / 1000003.0;
create or replace macro uid(x, k) as concat('2.25.', hash(x, k), hash(k, x));
create or replace macro pick(x, k, words) as words[1 + (hash(x * 1000 + k) % len(words))::int];
create or replace temp table one as
select
    s, {is_ct} as is_ct, if({is_mixed}, s % 100, 99) as kind,
    uid(s, 'series') as series_uid, uid(s // 4, 'study') as study_uid, uid(s // 4, 'for') as space,
    md5(concat(s // 8)) as patient,
    if(kind < 5, 25, 50 + (hash(s) % 101)::int) as n_locations,
    if(kind < 5, 4, 1) as n_times,
    if(is_ct, 0, radians(40 * (r(s, 1) - 0.5))) as a, if(is_ct, 0, radians(20 * (r(s,
        2) - 0.5))) as b,
    list_transform(
        [cos(b), sin(b), 0.0, -sin(b) * cos(a), cos(b) * cos(a), sin(a)], lambda c: round(c, 6)
    ) as o,
    [sin(b) * sin(a), -cos(b) * sin(a), cos(a)] as n,
    pick(s, 3, [0.625, 1.25, 2.5, 3.0, 5.0, 3.3, 6.6]) as dz,
    [-200 + 50 * r(s, 4), -180 + 40 * r(s, 5), -500 + 900 * r(s, 6)] as p0,
    pick(s, 7, [[0.48828125, 0.48828125], [0.703125, 0.703125], [0.9375, 0.9375]]) as spacing,
    pick(s, 8, [256, 320, 512]) as matrix,
    pick(s, 9, ['GE MEDICAL SYSTEMS', 'SIEMENS', 'Philips']) as vendor,
    if(is_ct, pick(s, 10, ['Thorax 5.0 B31f', 'ABD/PELVIS C+ 2.5mm', '', 'Recon 2: CHEST W/O']),
        pick(s, 11, ['t2_tse_tra', 'AX T1 FSE POST GAD', 'SAG T2 FLAIR',
        'ep2d_diff_b1000'])) as words,
    date '2020-01-01' + (hash(s // 4) % 2000)::int as study_date,
    r(s, 12) * 80000 as start_s,
from range({first}, {last}) as t(s);
"""

_ROWS = """
select
    concat('sealed:', md5(concat(s)), '/', md5(concat(s, '/', i))) as uri,
    timestamp '2026-01-01' + interval (s // 5000) second as harvested_at,
    '20260101T000000-abcdef' as run_id, concat('site', s % 7) as collection, 'image' as object_kind,
    if(is_ct, '1.2.840.10008.1.2.1', '1.2.840.10008.1.2.4.90') as TransferSyntaxUID,
    526000 + (hash(s, i) % 2000)::bigint as size_bytes, timestamp '2025-01-01' as modified,
    2200 + (s % 50) as header_bytes, true as has_pixel_data, false as has_modality_lut,
    []::varchar[] as flags, if(s % 3 = 0, ['AccessionNumber', 'PatientAge', 'ScanOptions'],
        []) as empty_keywords,
    []::varchar[] as unparseable_keywords, []::varchar[] as multivalued_keywords,
    patient as PatientID, if(s // 8 % 2 = 0, 'M', 'F') as PatientSex,
    if(s % 3 = 0, '', '055Y') as PatientAge, study_uid as StudyInstanceUID,
    series_uid as SeriesInstanceUID, uid(s, i) as SOPInstanceUID,
    if(is_ct, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.5.1.4.1.1.4') as SOPClassUID,
    space as FrameOfReferenceUID, if(is_ct, 'CT', 'MR') as Modality,
    if(is_ct, ['ORIGINAL', 'PRIMARY', 'AXIAL'], ['ORIGINAL', 'PRIMARY', 'M', 'ND',
        'NORM']) as ImageType,
    if(kind = 7 and i % 2 = 0, words || ' 2', words) as SeriesDescription,
    if(is_ct, 'CT ABDOMEN AND PELVIS WITH CONTRAST', 'MRI BRAIN W WO') as StudyDescription,
    words || ' protocol' as ProtocolName, if(is_ct, 'ABDOMEN', 'BRAIN') as BodyPartExamined,
    [{'CodeValue': 'CT5', 'CodingSchemeDesignator': 'L',
        'CodeMeaning': 'abdomen'}] as ProcedureCodeSequence,
    'HFS' as PatientPosition, vendor as Manufacturer, vendor || ' model' as ManufacturerModelName,
    ['syngo MR E11', 'B17'] as SoftwareVersions, md5(vendor) as StationName,
        ['ISO_IR 100'] as SpecificCharacterSet,
    s % 30 as SeriesNumber, 1 + i // n_locations as AcquisitionNumber, i + 1 as InstanceNumber,
    [round(p0[1] + n[1] * depth_mm, 3), round(p0[2] + n[2] * depth_mm, 3),
        round(p0[3] + n[3] * depth_mm, 3)]
        as ImagePositionPatient,
    if(kind = 6 and i = 0, [0.0, 1, 0, 0, 0, -1], o) as ImageOrientationPatient,
    spacing as PixelSpacing, matrix as "Rows", matrix as "Columns", dz as SliceThickness,
    dz as SpacingBetweenSlices, round(p0[3] + depth_mm, 2) as SliceLocation,
    if(is_ct, 0.0, null) as GantryDetectorTilt, if(is_ct, spacing[1] * matrix,
        null) as ReconstructionDiameter,
    if(is_ct, null, ['SE']) as ScanningSequence, if(is_ct, null, ['SK', 'SP']) as SequenceVariant,
    if(is_ct, null, '2D') as MRAcquisitionType, if(is_ct, null, '*tse2d1_15') as SequenceName,
    if(is_ct, null, 'N') as AngioFlag, if(is_ct, null, 500.0 + s % 4000) as RepetitionTime,
    if(is_ct, null, 10.0 + s % 100 + if(kind = 8, i % 2, 0)) as EchoTime,
    if(is_ct, null, 1.0) as NumberOfAverages, if(is_ct, null, 63.8 + r(s, 13)) as ImagingFrequency,
    if(is_ct, null, 1.5) as MagneticFieldStrength, if(is_ct, null, 15) as EchoTrainLength,
    if(is_ct, null, 90.0) as FlipAngle, study_date as StudyDate, study_date as SeriesDate,
    study_date as AcquisitionDate, start_s as StudyTime, start_s + 60 as SeriesTime,
    start_s + 60 + round(i * 0.35, 2) as AcquisitionTime, start_s + 61 + round(i * 0.35,
        2) as ContentTime,
    if(is_ct, 'OMNIPAQUE 350', '') as ContrastBolusAgent, if(is_ct, 'IV',
        null) as ContrastBolusRoute,
    if(is_ct, 100.0, null) as ContrastBolusVolume, 1 as SamplesPerPixel,
        'MONOCHROME2' as PhotometricInterpretation,
    16 as BitsAllocated, 12 as BitsStored, 11 as HighBit, 0 as PixelRepresentation,
    if(is_ct, -2000.0, null) as PixelPaddingValue, if(is_ct, -1024.0, null) as RescaleIntercept,
    if(is_ct, 1.0, null) as RescaleSlope, if(is_ct, 'HU', null) as RescaleType,
        '00' as LossyImageCompression,
    'YES' as PatientIdentityRemoved, ['CTP'] as DeidentificationMethod,
    [{'CodeValue': '113100', 'CodingSchemeDesignator': 'DCM',
        'CodeMeaning': 'Basic Application Confidentiality Profile'}]
            as DeidentificationMethodCodeSequence,
from (
    select
        one.*, i,
        dz * (i % n_locations + if(kind = 5 and i % n_locations > n_locations // 2, 1,
        0)) as depth_mm
    from one, range(n_locations * n_times) as t(i)
    order by series_uid, i
)
"""


BARE_COLUMNS = (
    "SeriesDescription", "StudyDescription", "Modality", "Manufacturer", "RepetitionTime",
        "EchoTime",
    "FlipAngle", "SliceThickness", "AcquisitionTime", "InstanceNumber", "Rows", "Columns",
)  # fmt: skip
_BARE = """
create table bare as
with located as (
    select
        SeriesInstanceUID, count(*) as n, {extremes},
        list_sort(list(
            p[1] * (o[2] * o[6] - o[3] * o[5]) + p[2] * (o[3] * o[4] - o[1] * o[6])
            + p[3] * (o[1] * o[5] - o[2] * o[4])
        )) as d
    from (
        select *, ImagePositionPatient as p, ImageOrientationPatient as o
        from read_parquet({files}, hive_partitioning = false)
    )
    group by SeriesInstanceUID
)
select
    *, list_transform(list_zip(d[2:], d[:-2]), lambda x: x[1] - x[2]) as gaps,
    list_min(gaps), list_max(gaps), list_median(gaps)
from located
"""


def make_lake(folder: Path, rows: int, is_mixed: bool) -> Lake:
    """A lake of about `rows` instance rows, in parts as compaction leaves them."""
    lake = create_lake(str(folder), "keep", "")
    columns = ", ".join(f'"{name}"' for name in schema.TABLES["instances"].names)
    series = FULL_ROWS // PER_SERIES
    with duckdb.connect() as connection:
        connection.execute(f"set threads = {THREADS}")
        connection.register("empty_instances", schema.TABLES["instances"].empty_table())
        for number, first in enumerate(range(0, rows // PER_SERIES, series)):
            last = min(first + series, rows // PER_SERIES)
            modality = ("CT", "MR")[number % 2]
            sql = _SERIES.format(first=first, last=last, is_ct=modality == "CT", is_mixed=is_mixed)
            for statement in sql.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            made = connection.sql(
                f"select {columns} from (select * from empty_instances union all by name {_ROWS})"
            ).to_arrow_table()
            name = f"{name_partition('synthetic', modality)}/compacted"
            lake.commit(add=[lake.write_part("instances", made, name)])
    return lake


def run_bare(lake: Lake) -> dict[str, float]:
    """The query that the roll-up is compared with."""
    files = [f"{lake.uri}/{p.name}" for p in lake.snapshot.of("instances")]
    extremes = ", ".join(f'min("{c}"), max("{c}")' for c in BARE_COLUMNS)
    with duckdb.connect() as connection:
        connection.execute(f"set threads = {THREADS}; set memory_limit = '4GB'")
        connection.execute("set preserve_insertion_order = false")
        connection.execute(_BARE.format(extremes=extremes, files=files))
    return {}


def run_rollup(lake: Lake) -> dict[str, float]:
    """All series anew."""
    stored = lake.snapshot.of("rollup")
    if stored:
        lake.commit(remove=[p.name for p in stored])
    report = refresh_rollup(lake, threads=THREADS)
    return {"files": report.parts_read, "series": report.rolled}


def run_again(lake: Lake) -> dict[str, float]:
    """Nothing changed."""
    assert refresh_rollup(lake, threads=THREADS).rolled == 0
    return {}


def vary_words(lake: Lake) -> None:
    """Give the stored roll-up the words of real series, about one description in five series.

    A hundred thousand series of public collections have 17,000 descriptions and 3,500 study texts.
    """
    readings = ROOT / "tests" / "data" / "readings.csv"
    stored = lake.snapshot.of("rollup")
    files = [f"{lake.uri}/{part.name}" for part in stored]
    with duckdb.connect() as connection:
        rows = connection.sql(f"""
            with word as (
                select row_number() over () as number, count(*) over () as n, *
                from read_csv('{readings}', all_varchar = true)
            ),
            numbered as (
                select row_number() over (order by SeriesInstanceUID) as i, *
                from read_parquet({files}, hive_partitioning = false)
            )
            select r.* exclude (i) replace (
                w.SeriesDescription || ' ' || (i % 20) as SeriesDescription,
                w.StudyDescription || ' ' || (i % 4) as StudyDescription,
                w.BodyPartExamined as BodyPartExamined
            )
            from numbered as r
            inner join word as w on 1 + hash(r.i) % w.n = w.number
        """).to_arrow_table()
    lake.commit(add=[lake.write_part("rollup", rows, "words")], remove=[p.name for p in stored])


def run_label(lake: Lake) -> dict[str, float]:
    """All labels with their evidence out of the stored roll-up, checked and stored."""
    report = label(LabelConfig(lake=lake.uri))
    with connect(lake.uri) as connection:
        described = connection.execute(
            "select count(distinct SeriesDescription) from series"
        ).fetchall()[0][0]
    return {"labelling": report.seconds, "series": report.series, "described": described}


WORK: dict[str, Callable[[Lake], dict[str, float]]] = {
    "bare": run_bare,
    "rollup": run_rollup,
    "again": run_again,
    "label": run_label,
}


def measure(work: str, lake: Lake) -> dict[str, float]:
    """Seconds, peak memory in GB, and what the work says, of the better of two processes."""
    command = [sys.executable, __file__, "--work", work, "--lake", lake.uri]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(2)
    ]
    return min(runs, key=lambda run: run["seconds"])


def time_work(work: str, uri: str) -> None:
    """In a process of its own: do it once, and print what it took."""
    lake = open_lake(uri)
    started = time.perf_counter()
    found = WORK[work](lake)
    seconds = time.perf_counter() - started
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "peak_gb": peak, **found}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time roll-up and labels of a synthetic lake.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", help="where to make the lakes; they are deleted again")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--lake", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        time_work(options.work, options.lake)
        return
    titles = (
        "stacks",
        "rows",
        "series",
        "files",
        "bare s",
        "roll-up s",
        "ratio",
        "peak GB",
        "again s",
    )
    labelled: list[dict[str, float]] = []
    print("".join(f"{title:>12}" for title in titles))
    for rows in options.rows:
        for stacks in ("valid", "mixed"):
            folder = Path(tempfile.mkdtemp(dir=options.folder))
            try:
                lake = make_lake(folder / "lake", rows, stacks == "mixed")
                bare, rolled, again = (measure(work, lake) for work in ("bare", "rollup", "again"))
                if stacks == "valid":
                    vary_words(open_lake(lake.uri))
                    labelled.append(measure("label", lake))
            finally:
                shutil.rmtree(folder)
            cells = (
                stacks, f"{rows:,}", f"{rolled['series']:,}", rolled["files"],
                f"{bare['seconds']:.2f}", f"{rolled['seconds']:.2f}",
                f"{rolled['seconds'] / bare['seconds']:.1f}", f"{rolled['peak_gb']:.2f}",
                f"{again['seconds']:.3f}",
            )  # fmt: skip
            print("".join(f"{cell:>12}" for cell in cells), flush=True)
    titles = ("series", "described", "label s", "series/s", "peak GB")
    print("\n" + "".join(f"{title:>12}" for title in titles))
    for found in labelled:
        cells = (
            f"{found['series']:,}", f"{found['described']:,}", f"{found['labelling']:.2f}",
            f"{found['series'] / found['labelling']:,.0f}", f"{found['peak_gb']:.2f}",
        )  # fmt: skip
        print("".join(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    main()
