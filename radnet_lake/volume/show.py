"""Series of a lake in, pictures out: one before and after preprocessing, or many on a sheet.

No description, name or path is in a picture, for pictures leave the lake; the series' UID is
shortened. The plane of the slices lies as it is stored, the other two as radiologists hang them.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from radnet_lake import schema
from radnet_lake.errors import SettingError, VolumeError
from radnet_lake.lake.freshness import warn_if_stale
from radnet_lake.lake.log import Lake, open_lake
from radnet_lake.lake.settings import LakeSettings
from radnet_lake.lake.sql import choose_rows, clean_line, describe_label, refuse_unknown_series
from radnet_lake.lake.views import connect
from radnet_lake.settings import take_settings
from radnet_lake.volume.frame import Frame, Stored
from radnet_lake.volume.nifti import write_nifti
from radnet_lake.volume.planes import Plane, draw_rows, draw_sheet, lay_planes, write_picture
from radnet_lake.volume.resample import ResampleSettings
from radnet_lake.volume.series_frames import stream_frames
from radnet_lake.volume.volume import Prepared, Volume, order_frames, prepare_frames, read_volume_of

IMAGES = "not list_contains(exclusions, 'not_image')"
PAGE_SERIES = 60
MAX_SERIES = 6000
WINDOW_VOXELS = 1_000_000
"""So many, evenly spread, give the percentiles of a volume."""


@dataclass(frozen=True, kw_only=True)
class ShowConfig(ResampleSettings, LakeSettings):
    """Settings of one picture or sheet."""

    output: str = field(metadata={"short": "-o"})
    """file to write: .png; or .nii, .nii.gz: the volume after preprocessing, for viewers"""
    series: str = field(default="", metadata={"positional": "SERIES_UID"})
    """SeriesInstanceUID as the lake has it; left out: a sheet of many series"""
    where: str = ""
    """which series go on the sheet: an SQL condition over `series`, as: sequence = 'T2-SE'
    (default: all CT and MR)"""
    limit: int = PAGE_SERIES
    """series on the sheet; after each 60 begins another file: NAME-2.png, ..."""

    def __post_init__(self) -> None:
        name = self.output.lower()
        if "://" in name:
            raise SettingError("not a local file", "--output", "write it here, then copy it")
        if not name.endswith((".png", ".nii", ".nii.gz")):
            raise SettingError("not .png, .nii or .nii.gz", "--output", "name such a file")
        if not self.series and not name.endswith(".png"):
            raise SettingError("such a file holds one series", "--output", "name its UID")
        if self.series and self.where:
            remedy = "give one of them: a UID, or a condition for a sheet of many series"
            raise SettingError("a UID is given too", "--where", remedy)
        if not 1 <= self.limit <= MAX_SERIES:
            raise SettingError(f"not between 1 and {MAX_SERIES}", "--limit", "narrow --where")


def show(config: ShowConfig) -> Iterator[str]:
    """Write the picture, the volume or the sheet -> lines that name what was written.

    Excluded series are shown too, read loosely: the main stack, one frame a place. Raises
    SettingError for an unknown series, a wrong condition or a place that cannot be written,
    VolumeError where the pixels of the one series make no volume.
    """
    lake, settings = open_lake(config.lake), take_settings(ResampleSettings, config)
    if not config.series:
        yield from _write_sheets(lake, config, settings)
        return
    frames = next((frames for _, frames in stream_frames(lake, [config.series])), None)
    if not frames:
        refuse_unknown_series(config.series)
    try:
        if config.output.lower().endswith(".png"):
            figure = draw_series(frames, settings, _describe(lake, config.series))
            write_picture(figure, Path(config.output))
        else:
            made = prepare_frames(frames, settings, strict=False)
            write_nifti(config.output, made.voxels, made.position_mm, made.steps_mm)
    except VolumeError as error:
        raise VolumeError(
            error.reason, error.detail or schema.VOLUME_REASONS[error.reason]
        ) from None
    yield f"{config.output} is written"


def draw_series(frames: Sequence[Frame], settings: ResampleSettings, title: list[str]) -> Figure:
    """A series -> three orthogonal planes through its middle, before and after preprocessing.

    title: lines to stand above. Raises VolumeError.
    """
    # Read twice: what is shown as stored has gone the way that preprocess takes.
    made = prepare_frames(frames, settings, strict=False)
    volume = read_volume_of(frames, strict=False)
    low, high = _find_window(volume.values)
    middle = volume.position_mm + (np.array(volume.values.shape) // 2) @ volume.steps_mm
    before = lay_planes(*volume, middle)
    after = lay_planes(made.voxels, made.position_mm, made.steps_mm, middle)
    rows = [
        (_say_volume(volume, low, high), before, (low, high)),
        (_say_prepared(made), after, (0.0, 255.0)),
    ]
    return draw_rows(rows, [*title, _say_used(frames)])


def _find_window(values: Stored) -> tuple[float, float]:
    """1st and 99th percentile, or least and greatest where these are equal."""
    some = values.ravel()[:: max(1, values.size // WINDOW_VOXELS)]
    low, high = np.percentile(some, (1, 99))
    return (float(low), float(high)) if low < high else (float(values.min()), float(values.max()))


def _say_volume(volume: Volume, low: float, high: float) -> str:
    least, greatest = volume.values.min(), volume.values.max()
    upright = volume.spacing_mm[0] / float(np.linalg.norm(volume.steps_mm[0]))
    lean = math.degrees(math.acos(min(1.0, upright)))
    note = f"; the stack leans by {lean:.0f} degrees, drawn upright" if lean >= 1 else ""
    if len(volume.values) == 1:
        note = "; one slice, drawn as thick as its rows are apart"
    return (
        f"before: {_say_grid(volume.values.shape, volume.spacing_mm)};"
        f" black {low:.5g} to white {high:.5g} (1st and 99th percentile),"
        f" all values {least:.5g} to {greatest:.5g}{note}"
    )


def _say_prepared(made: Prepared) -> str:
    after = made.voxels.shape[0] - made.blank_before - made.slices_filled
    lossy = "; compressed with loss" if made.is_lossy else ""
    return (
        f"after: {_say_grid(made.voxels.shape, made.spacing_mm)}; black 0 = {made.value_min:.5g} to"
        f" white 255 = {made.value_max:.5g} (99th percentile: {made.grey_p99});"
        f" blank slices: {made.blank_before} before, {after} behind{lossy}"
    )


def _say_grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    sizes = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
    return f"{' x '.join(map(str, shape))} voxels of {sizes} mm"


def _say_used(frames: Sequence[Frame]) -> str:
    used = len(order_frames(frames, strict=False))
    try:
        order_frames(frames, strict=True)
    except VolumeError as error:
        meaning = schema.VOLUME_REASONS[error.reason]
        return (
            f"read loosely, one frame a place, {used} of {len(frames)} frames:"
            f" preprocess makes no volume of it, {error.reason} ({meaning})"
        )
    return f"{used} of {len(frames)} frames make the volume"


def _shorten(series: str) -> str:
    """A UID -> its end; other characters are dropped, because header text is not trusted."""
    return "…" + re.sub(r"[^0-9a-f.]", "", series)[-12:]


def _read_labels(lake: Lake, condition: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of `series` with their labels, and what the rules of exclusion mean.

    None of a lake without labels. Raises SettingError for a wrong condition.
    """
    columns = ", ".join(f'"{name}", {name}_rule' for name in schema.LABELS)
    with connect(lake.uri) as connection:
        if not connection.sql("from duckdb_views() where view_name = 'series'").fetchall():
            return [], {}
        facts = (
            "SeriesInstanceUID, Modality, geometry, slice_count, mosaic, excluded_by,"
            f" exclusion_evidence, {columns}"
        )
        choose_rows(connection, "series", condition, "series", facts)
        rows = (
            connection.sql(
                'from wanted order by Modality nulls last, sequence nulls last, "view" nulls last,'
                " SeriesInstanceUID"
            )
            .to_arrow_table()
            .to_pylist()
        )
        meanings = connection.sql("select rule_id, meaning from rule.exclusions").fetchall()
    return rows, dict(meanings)


def _describe(lake: Lake, series: str) -> list[str]:
    """A row of `series` -> lines: labels with their rules, exclusions with their meaning."""
    quoted = series.replace("'", "''")
    rows, meanings = _read_labels(lake, f"SeriesInstanceUID = '{quoted}'")
    if not rows:
        return [f"series {_shorten(series)}, not labelled yet"]
    row = rows[0]
    mosaic = ", a mosaic: each frame holds many slices as tiles" if row["mosaic"] else ""
    facts = f"{_say_modality(row)}, geometry {row['geometry']}, {row['slice_count'] or 0} places"
    lines = [f"series {_shorten(series)}: {facts}{mosaic}"]
    lines.append(
        "   ".join(
            f"{name.replace('_', ' ')}: {describe_label(row[name])}"
            f" [{row[f'{name}_rule'] or 'no rule'}]"
            for name in schema.LABELS
        )
    )
    hits = [hit["rule"] for hit in row["exclusion_evidence"] or []]
    fired = "; ".join(f"{meanings[rule]} [{rule}]" for rule in hits)
    if row["excluded_by"]:
        return [*lines, f"excluded by {row['excluded_by']}: {fired}"]
    return [*lines, "included: nothing excludes it"]


def _say_modality(row: dict[str, Any]) -> str:
    # A header's text, of which only a code may leave the lake.
    modality = row["Modality"] or ""
    return modality if re.fullmatch("[A-Z]{2,8}", modality) else "other modality"


def _caption(row: dict[str, Any]) -> str:
    """A row of `series` -> one line: first reason of exclusion (lines are cut), and labels."""
    words = [row["sequence"] or _say_modality(row), row["view"] or "no view"]
    words += ["+".join(row["coverage"])] if row["coverage"] else []
    words += ["contrast"] if row["contrast"] else []
    words += ["time series"] if row["time_series"] else []
    out = [f"out: {row['excluded_by']} |"] if row["excluded_by"] else []
    return " ".join([*out, *words])


def _write_sheets(lake: Lake, config: ShowConfig, settings: ResampleSettings) -> Iterator[str]:
    stale = warn_if_stale(lake)
    if stale:
        yield f"note: {stale}"
    found, _ = _read_labels(lake, config.where or IMAGES)
    if not found:
        raise SettingError("no series meets it", "--where", "widen the condition")
    shown, path = found[: config.limit], Path(config.output)
    for first in range(0, len(shown), PAGE_SERIES):
        page = shown[first : first + PAGE_SERIES]
        middles = _lay_middles(lake, page, settings)
        cells = []
        for number, row in enumerate(page, first + 1):
            series, caption = row["SeriesInstanceUID"], _caption(row)
            cells.append((f"{number} {_shorten(series)} {caption}", middles[series]))
            yield f"{number:>5}  {clean_line(series)}  {caption}"
        name = path.with_stem(f"{path.stem}-{first // PAGE_SERIES + 1}") if first else path
        write_picture(draw_sheet(cells), name)
        failed = sum(isinstance(cell, str) for _, cell in cells)
        yield f"{name} is written: {len(cells)} series, {failed} of them without a volume"
    if len(found) > len(shown):
        yield f"{len(found) - len(shown)} more series are left out; --limit shows more"


def _lay_middles(
    lake: Lake, page: list[dict[str, Any]], settings: ResampleSettings
) -> dict[str, list[Plane] | str]:
    """Series -> the middle planes of each after preprocessing, or the reason why there are none.

    Kept series are read as strictly as preprocess reads them.
    """
    kept = {row["SeriesInstanceUID"]: row["excluded_by"] is None for row in page}
    middles: dict[str, list[Plane] | str] = dict.fromkeys(kept, "no_frames")
    for series, frames in stream_frames(lake, list(kept)):
        try:
            made = prepare_frames(frames, settings, strict=kept[series])
            middle = np.array(made.voxels.shape) // 2
            middle[0] = made.blank_before + made.slices_filled // 2
            point = made.position_mm + middle @ made.steps_mm
            middles[series] = lay_planes(made.voxels, made.position_mm, made.steps_mm, point)
        except VolumeError as error:
            middles[series] = error.reason
    return middles
