-- grain: one row per series whose rows do not all say the same words
-- meaning: keywords that say something somewhere, and those of them that say several things
-- source: rollup.word, rollup.measure
create view rollup.several as
with said as (
    unpivot (
        select
            w.SeriesInstanceUID,
            columns(w.* exclude (SeriesInstanceUID, n, n_rows, image_type))::text,
        from rollup.word as w
        where w.n > 1
    )
    on columns(* exclude (SeriesInstanceUID)) into name keyword value said
),

numbers as (
    unpivot (
        select
            m.SeriesInstanceUID,
            columns(number_keywords())['greatest']::text,
        from rollup.measure as m
        semi join said on m.SeriesInstanceUID = said.SeriesInstanceUID
    )
    on columns(* exclude (SeriesInstanceUID)) into name keyword value said
),

keyword as (
    select
        a.SeriesInstanceUID,
        a.keyword,
        count(distinct a.said) as n,
    from said as a
    where
        not is_void(a.said)
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
