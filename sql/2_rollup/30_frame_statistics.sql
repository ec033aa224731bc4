-- grain: one row per series
-- meaning: counts of its frames, least and greatest of each number, its frames seen as one stack;
-- any_frame: what all frames share if they are on one grid; gaps: between neighbours, NULL if even
-- source: frame.plane; DICOM PS3.3 C.7.6.2
create view rollup.frame_statistics as
with total as (
    select
        p.SeriesInstanceUID,
        count(*) as n_frames,
        count(*) filter (where p.frame_number is null or p.frame_number = 1) as n_instances,
        max(p.harvested_at) as last_harvested_at,
        min(p.AcquisitionTime) as acquisition_start_s,
        max(p.AcquisitionTime) as acquisition_end_s,
        max(p.InConcatenationTotalNumber) as n_parts,
        {
            'least': min(p.b),
            'greatest': max(p.b)
        } as b,
        {
            'least': min(columns(number_keywords())),
            'greatest': max(columns(number_keywords()))
        },
        min(p.grid) = max(p.grid) as is_one_grid,
        arg_min(
            {
                'object_kind': p.object_kind,
                'ImageOrientationPatient': p.ImageOrientationPatient,
                'ImagePositionPatient': p.ImagePositionPatient,
                'PixelSpacing': p.PixelSpacing,
                'Rows': p."Rows",
                'Columns': p."Columns"
            },
            0
        ) as any_frame,
        list_sort(list(p.d)) as ds,
        count(p.d) as n_distances,
        hypotenuse(max(p.u) - min(p.u), max(p.v) - min(p.v)) as drift_mm,
        arg_min(p.ImagePositionPatient, p.d) as first_position,
        arg_max(p.ImagePositionPatient, p.d) as last_position,
    from frame.plane as p
    group by p.SeriesInstanceUID
),

-- A query of its own: within one, the list would be sorted anew for each of its elements.
spaced as (
    select
        t.*,
        list_transform(list_zip(t.ds[2:], t.ds[:-2]), lambda p: p[1] - p[2]) as all_gaps,
    from total as t
)

select
    s.* exclude (ds, all_gaps),
    s.ds[1] as first_mm,
    s.ds[-1] as last_mm,
    list_min(s.all_gaps) as gap_min_mm,
    list_max(s.all_gaps) as gap_max_mm,
    -- Of even gaps nobody asks for each, and lists take long to store.
    if(gap_max_mm - gap_min_mm <= gap_tolerance_mm(), null, s.all_gaps) as gaps,
from spaced as s;
