-- grain: one row per series whose frames form one stack, one frame a location, on a straight line
-- meaning: the gaps between its locations; all other series go the long way over rollup.tangled
-- source: rollup.measure; the same numbers as rollup.line, at a tenth of the cost
create view rollup.plain as
with checked as (
    select
        m.*,
        m.sample['ImageOrientationPatient'] as o,
        m.last_mm - m.first_mm as span_mm,
    from rollup.measure as m
    where
        m.is_one_grid
        and m.n_distances = m.n_frames
        and isfinite(m.first_mm)
        and isfinite(m.last_mm)
        and m.n_parts is null
        and m.drift_mm < straight_mm()
        and m.sample['object_kind'] = 'image'
        and is_plane(
            m.sample['ImageOrientationPatient'],
            m.sample['ImagePositionPatient'],
            m.sample['PixelSpacing'],
            m.sample['Rows'],
            m.sample['Columns']
        )
)

select
    c.SeriesInstanceUID,
    c.n_frames as stack_frames,
    c.n_frames as slice_count,
    c.span_mm / nullif(c.n_frames - 1, 0) as slice_spacing_mm,
    c.gap_min_mm,
    c.gap_max_mm,
    c.gaps,
    slope_cosine(
        row_distance(c.o, c.last_position) - row_distance(c.o, c.first_position),
        column_distance(c.o, c.last_position) - column_distance(c.o, c.first_position),
        c.span_mm
    ) as shear_cosine,
    0.0 as in_plane_shift_mm,
    c.first_position,
    c.last_position,
    c.o as ImageOrientationPatient,
    c.sample['PixelSpacing'] as PixelSpacing,
    c.sample['Rows'] as "Rows",
    c.sample['Columns'] as "Columns",
from checked as c
where
    c.n_frames = 1
    or (c.gap_min_mm > merge_distance_mm() and c.drift_mm < straight_slope() * c.span_mm);
