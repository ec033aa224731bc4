-- grain: one row per series whose frames form one stack: one frame per location, on a straight line
-- meaning: the gaps between its locations; all other series are computed by rollup.irregular_frame
-- source: rollup.frame_statistics; equal to rollup.stack_geometry, at a tenth of the cost
create view rollup.simple_stack as
with checked as (
    select
        m.*,
        m.any_frame['ImageOrientationPatient'] as o,
        m.last_mm - m.first_mm as span_mm,
    from rollup.frame_statistics as m
    where
        m.is_one_grid
        and m.n_distances = m.n_frames
        and isfinite(m.first_mm)
        and isfinite(m.last_mm)
        and m.n_parts is null
        and m.drift_mm < straight_mm()
        and m.any_frame['object_kind'] = 'image'
        and is_plane(
            m.any_frame['ImageOrientationPatient'],
            m.any_frame['ImagePositionPatient'],
            m.any_frame['PixelSpacing'],
            m.any_frame['Rows'],
            m.any_frame['Columns']
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
    c.any_frame['PixelSpacing'] as PixelSpacing,
    c.any_frame['Rows'] as "Rows",
    c.any_frame['Columns'] as "Columns",
from checked as c
where
    c.n_frames = 1
    or (c.gap_min_mm > merge_distance_mm() and c.drift_mm < straight_slope() * c.span_mm);
