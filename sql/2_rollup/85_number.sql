-- grain: one row per series
-- meaning: the number that its rows agree on within agreement_share, and the values that it takes
-- source: rollup.measure, rollup.spread
create view rollup.number as
with steady as (
    select
        m.SeriesInstanceUID,
        columns(number_keywords())['least'],
        m.b['least'] as b,
    from rollup.measure as m
    anti join rollup.spread as s on m.SeriesInstanceUID = s.SeriesInstanceUID
),

far as (
    unpivot (
        select
            m.SeriesInstanceUID,
            nullif(
                is_close(
                    columns(number_keywords())['least'], columns(number_keywords())['greatest']
                ),
                true
            ),
        from rollup.measure as m
        semi join rollup.spread as s on m.SeriesInstanceUID = s.SeriesInstanceUID
    )
    on columns(* exclude (SeriesInstanceUID)) into name keyword value is_close
),

varying as (
    select
        f.SeriesInstanceUID,
        list(f.keyword order by f.keyword) as varying_numbers,
    from far as f
    group by f.SeriesInstanceUID
)

select
    s.* exclude (b),
    list_of_one(columns(values_keywords())) as "\0_values", -- noqa: RF05
    list_of_one(s.b) as b_values,
    [] as varying_numbers,
from steady as s
union all by name
select
    s.*,
    coalesce(v.varying_numbers, []) as varying_numbers,
from rollup.spread as s
left join varying as v on s.SeriesInstanceUID = v.SeriesInstanceUID;
