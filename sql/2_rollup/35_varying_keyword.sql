-- grain: one row per series with more than one combination of series-level attributes
-- meaning: valued_keywords: with a value in some frame; varying_keywords: with several values
-- source: rollup.attribute_combination, rollup.frame_statistics
create view rollup.varying_keyword as
with stated as (
    unpivot (
        select
            c.SeriesInstanceUID,
            columns(c.* exclude (SeriesInstanceUID, n_combinations, n_rows, image_type))::text,
        from rollup.attribute_combination as c
        where c.n_combinations > 1
    )
    on columns(* exclude (SeriesInstanceUID)) into name keyword value stated
),

numbers as (
    unpivot (
        select
            m.SeriesInstanceUID,
            columns(number_keywords())['greatest']::text,
        from rollup.frame_statistics as m
        semi join stated on m.SeriesInstanceUID = stated.SeriesInstanceUID
    )
    on columns(* exclude (SeriesInstanceUID)) into name keyword value stated
),

keyword as (
    select
        a.SeriesInstanceUID,
        a.keyword,
        count(distinct a.stated) as n,
    from stated as a
    where
        not is_void(a.stated)
        and a.keyword not in (
            'flags', 'empty_keywords', 'unparseable_keywords', 'multivalued_keywords'
        )
    group by a.SeriesInstanceUID, a.keyword
    union all
    select
        b.SeriesInstanceUID,
        b.keyword,
        1 as n,
    from numbers as b
)

select
    k.SeriesInstanceUID,
    list(k.keyword order by k.keyword) as valued_keywords,
    list(k.keyword order by k.keyword) filter (where k.n > 1) as varying_keywords,
from keyword as k
group by k.SeriesInstanceUID;
