-- grain: one row per series, included or not
-- meaning: what its instances agree on, and its geometry; stored, so that labelling reads one row
-- source: rollup.agreed_attribute, rollup.varying_keyword, rollup.frame_statistics, rollup.number,
-- rollup.geometry
create view rollup.series as
select
    t.* replace (
        -- Empty in some rows is not empty where others have a value.
        if(
            s.valued_keywords is null,
            t.empty_keywords,
            list_filter(t.empty_keywords, lambda k: not list_contains(s.valued_keywords, k))
        ) as empty_keywords,
        list_sort(
            t.flags
            || if(starts_with(t.SeriesInstanceUID, 'no-uid/'), ['no_series_uid'], [])
            || if(g.any_contradiction, ['uid_conflict'], [])
            || if(g.any_duplicates, ['copies'], [])
        ) as flags
    ),
    list_sort(coalesce(s.varying_keywords, []) || n.varying_numbers) as varying_keywords,
    m.n_frames,
    m.n_instances,
    m.last_harvested_at,
    m.acquisition_start_s,
    m.acquisition_end_s,
    n.* exclude (SeriesInstanceUID, varying_numbers),
    g.* exclude (SeriesInstanceUID, any_contradiction, any_duplicates),
    g.salvage is not null as is_salvageable,
    coalesce(list_bool_or(list_transform(t.image_types, lambda i: is_tiled(i))), false) as mosaic,
from rollup.agreed_attribute as t
inner join rollup.frame_statistics as m on t.SeriesInstanceUID = m.SeriesInstanceUID
inner join rollup.number as n on t.SeriesInstanceUID = n.SeriesInstanceUID
inner join rollup.geometry as g on t.SeriesInstanceUID = g.SeriesInstanceUID
left join rollup.varying_keyword as s on t.SeriesInstanceUID = s.SeriesInstanceUID;
