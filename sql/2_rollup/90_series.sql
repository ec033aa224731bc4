-- grain: one row per series, included or not
-- meaning: what the instances of a series say together; stored, so that labels read one row a series
-- source: rollup.text, rollup.measure, rollup.number, rollup.geometry
create view rollup.series as
select
    t.* exclude (silent_keywords)
    replace (
        if(
            t.silent_keywords is null,
            t.empty_keywords,
            list_filter(
                t.empty_keywords, lambda k: list_contains(t.silent_keywords || n.silent_numbers, k)
            )
        ) as empty_keywords,
        list_sort(t.varying_keywords || n.varying_numbers) as varying_keywords,
        list_sort(
            t.flags
            || if(starts_with(t.SeriesInstanceUID, 'no-uid/'), ['no_series_uid'], [])
            || if(g.any_contradiction, ['uid_conflict'], [])
            || if(g.any_copies, ['copies'], [])
        ) as flags
    ),
    m.n_frames,
    m.n_instances,
    m.last_harvested_at,
    m.acquisition_start_s,
    m.acquisition_end_s,
    n.* exclude (SeriesInstanceUID, silent_numbers, varying_numbers),
    g.* exclude (SeriesInstanceUID, any_contradiction, any_copies, is_even, is_multiple, n_deep_stacks),
    g.salvage is not null as is_salvageable,
    coalesce(list_bool_or(list_transform(t.image_types, lambda i: i like '%MOSAIC%')), false) as mosaic,
from rollup.text as t
inner join rollup.measure as m on t.SeriesInstanceUID = m.SeriesInstanceUID
inner join rollup.number as n on t.SeriesInstanceUID = n.SeriesInstanceUID
inner join rollup.geometry as g on t.SeriesInstanceUID = g.SeriesInstanceUID;
