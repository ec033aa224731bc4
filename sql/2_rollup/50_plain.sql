-- grain: one row per series whose frames form one stack, one frame a location, on a straight line
-- meaning: the gaps between its locations; all other series go the long way over rollup.tangled
-- source: rollup.measure; the same numbers as rollup.line, at a tenth of the cost
create view rollup.plain as
with sorted as (
    select
        m.SeriesInstanceUID,
        m.n_frames,
        m.sample,
        m.first_position,
        m.last_position,
        m.drift_mm,
        list_sort(m.distances) as ds,
    from rollup.measure as m
    where
        m.is_one_grid
        and m.n_distances = m.n_frames
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
),

-- A query of its own: within one, the list would be sorted anew for each of its elements.
measured as (
    select
        s.*,
        list_transform(list_zip(s.ds[2:], s.ds[:-2]), lambda p: p[1] - p[2]) as gaps,
    from sorted as s
    where isfinite(s.ds[1]) and isfinite(s.ds[-1])
)

select
    g.SeriesInstanceUID,
    g.n_frames as stack_frames,
    g.n_frames as slice_count,
    (g.ds[-1] - g.ds[1]) / nullif(g.n_frames - 1, 0) as slice_spacing_mm,
    list_min(g.gaps) as gap_min_mm,
    list_max(g.gaps) as gap_max_mm,
    g.gaps,
    slope_cosine(
        row_distance(g.sample['ImageOrientationPatient'], g.last_position)
        - row_distance(g.sample['ImageOrientationPatient'], g.first_position),
        column_distance(g.sample['ImageOrientationPatient'], g.last_position)
        - column_distance(g.sample['ImageOrientationPatient'], g.first_position),
        g.ds[-1] - g.ds[1]
    ) as shear_cosine,
    0.0 as in_plane_shift_mm,
    g.first_position,
    g.last_position,
    g.sample['ImageOrientationPatient'] as ImageOrientationPatient,
    g.sample['PixelSpacing'] as PixelSpacing,
    g.sample['Rows'] as "Rows",
    g.sample['Columns'] as "Columns",
from measured as g
where
    g.n_frames = 1
    or (
        list_min(g.gaps) > merge_distance_mm()
        and g.drift_mm < straight_slope() * (g.ds[-1] - g.ds[1])
    );
