-- grain: one row per frame of rollup.irregular_frame with a valid position, without duplicates
-- meaning: the same columns, and orientation_key: equal where orientation and pixel spacing are
-- equal but for rounding; has_duplicate: a duplicate of this frame was left out;
-- is_contradicted: a frame of the same UID with other attributes was left out
-- source: rollup.irregular_frame; of one SOPInstanceUID the newest file, of one content the lowest
-- UID
create view rollup.distinct_frame as
-- The same object in several files.
with duplicated_object as (
    select
        t.SeriesInstanceUID,
        t.SOPInstanceUID,
        t.frame_number,
        min(t.content) <> max(t.content) as is_contradicted,
        max(t.file_age) as file_age,
    from rollup.irregular_frame as t
    where t.is_valid and t.SOPInstanceUID is not null
    group by t.SeriesInstanceUID, t.SOPInstanceUID, t.frame_number
    having count(*) > 1
),

distinct_object as (
    select
        t.*,
        w.SOPInstanceUID is not null as is_duplicated,
        coalesce(w.is_contradicted, false) as is_contradicted,
    from rollup.irregular_frame as t
    left join duplicated_object as w
        on
            t.SeriesInstanceUID = w.SeriesInstanceUID
            and t.SOPInstanceUID = w.SOPInstanceUID
            and t.frame_number = w.frame_number
    where t.is_valid and (w.SOPInstanceUID is null or t.file_age = w.file_age)
),

-- The same content in several objects. Without an InstanceNumber it may be a time series.
duplicate_content as (
    select
        o.SeriesInstanceUID,
        o.content,
        min(o.SOPInstanceUID) as SOPInstanceUID,
    from distinct_object as o
    where not o.is_unnumbered and o.SOPInstanceUID is not null
    group by o.SeriesInstanceUID, o.content
    having count(*) > 1
),

frame_of_reference as (
    select
        t.SeriesInstanceUID,
        max(t.frame_of_reference) as any_frame_of_reference,
    from rollup.irregular_frame as t
    group by t.SeriesInstanceUID
)

select
    o.* exclude (is_duplicated, is_unnumbered, file_age)
    replace (coalesce(o.frame_of_reference, s.any_frame_of_reference, '') as frame_of_reference),
    o.is_duplicated or a.content is not null as has_duplicate,
    hash(
        coalesce(o.frame_of_reference, s.any_frame_of_reference, ''),
        o.matrix,
        list_transform(o.ImageOrientationPatient, lambda c: round(c, key_decimals()::integer)),
        list_transform(o.PixelSpacing, lambda c: round(c, key_decimals()::integer))
    ) as orientation_key,
from distinct_object as o
inner join frame_of_reference as s on o.SeriesInstanceUID = s.SeriesInstanceUID
left join duplicate_content as a
    on o.SeriesInstanceUID = a.SeriesInstanceUID and o.content = a.content
where a.content is null or o.SOPInstanceUID = a.SOPInstanceUID;
