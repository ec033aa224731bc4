-- grain: one row per wanted series
-- meaning: its labels as the network's classes (sql/classes.csv, -1 unknown), its slice spacing
-- after resizing to so many slices, and where its volume is stored, NULL if nowhere
with region as (
    select list(value order by index) as names
    from rule.classes
    where head = 'coverage'
)

select
    w.SeriesInstanceUID,
    coalesce(s.index, -1)::tinyint as sequence,
    coalesce(o.index, -1)::tinyint as "view",
    coalesce(c.index, -1)::tinyint as contrast,
    list_transform(
        r.names,
        lambda region: coalesce(list_contains(w.coverage, region)::tinyint, -1)
    )::tinyint[] as coverage,
    (
        w.slice_spacing_mm * greatest(w.slice_count, $slices::bigint) / $slices::bigint
    )::float as spacing,
    t.shard,
    t.position,
from wanted as w
cross join region as r
left join rule.classes as s on s.head = 'sequence' and w.sequence = s.value
left join rule.classes as o on o.head = 'view' and w."view" = o.value
left join rule.classes as c
    on
        c.head = 'contrast'
        and if(w.contrast, 'Contrast', 'No Contrast') = c.value
        and w.contrast is not null
left join volumes as t
    on
        w.SeriesInstanceUID = t.SeriesInstanceUID
        and t.preprocessing = $preprocessing
        and t.shard is not null
order by w.SeriesInstanceUID;
