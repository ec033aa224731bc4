-- grain: one row per frame of rollup.tangled that can be placed; copies are left out
-- meaning: the same, and way: equal where frames lie alike but for rounding; is_copied: a copy of
-- this frame was left out; is_contradicted: a frame of the same UID that says something else was
-- source: rollup.tangled; of one SOPInstanceUID the newest file, of one content the lowest UID
create view rollup.placed as
-- The same object in several files.
with twice as (
    select
        t.SeriesInstanceUID,
        t.SOPInstanceUID,
        t.frame_number,
        min(t.content) <> max(t.content) as is_contradicted,
        max(t.file_age) as file_age,
    from rollup.tangled as t
    where t.is_valid and t.SOPInstanceUID is not null
    group by t.SeriesInstanceUID, t.SOPInstanceUID, t.frame_number
    having count(*) > 1
),

once as (
    select
        t.*,
        w.SOPInstanceUID is not null as is_twice,
        coalesce(w.is_contradicted, false) as is_contradicted,
    from rollup.tangled as t
    left join twice as w
        on
            t.SeriesInstanceUID = w.SeriesInstanceUID
            and t.SOPInstanceUID = w.SOPInstanceUID
            and t.frame_number = w.frame_number
    where t.is_valid and (w.SOPInstanceUID is null or t.file_age = w.file_age)
),

-- The same content in several objects. Without an InstanceNumber it may be a time series.
again as (
    select
        o.SeriesInstanceUID,
        o.content,
        min(o.SOPInstanceUID) as SOPInstanceUID,
    from once as o
    where not o.is_unnumbered and o.SOPInstanceUID is not null
    group by o.SeriesInstanceUID, o.content
    having count(*) > 1
),

space as (
    select
        t.SeriesInstanceUID,
        max(t.space) as a_space,
    from rollup.tangled as t
    group by t.SeriesInstanceUID
)

select
    o.* exclude (is_twice, is_unnumbered, file_age)
    replace (coalesce(o.space, s.a_space, '') as space),
    o.is_twice or a.content is not null as is_copied,
    hash(
        coalesce(o.space, s.a_space, ''),
        o.matrix,
        list_transform(o.ImageOrientationPatient, lambda c: round(c, 4)),
        list_transform(o.PixelSpacing, lambda c: round(c, 4))
    ) as way,
from once as o
inner join space as s on o.SeriesInstanceUID = s.SeriesInstanceUID
left join again as a
    on o.SeriesInstanceUID = a.SeriesInstanceUID and o.content = a.content
where a.content is null or o.SOPInstanceUID = a.SOPInstanceUID;
