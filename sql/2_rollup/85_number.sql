-- grain: one row per series
-- meaning: each number where all frames agree within agreement_share, and its distinct values
-- source: rollup.frame_statistics, rollup.varying_number
create view rollup.number as
with constant as (
    select
        m.SeriesInstanceUID,
        columns(number_keywords())['least'],
        m.b['least'] as b,
    from rollup.frame_statistics as m
    anti join rollup.varying_number as s on m.SeriesInstanceUID = s.SeriesInstanceUID
),

not_close as (
    unpivot (
        select
            m.SeriesInstanceUID,
            nullif(
                is_close(
                    columns(number_keywords())['least'], columns(number_keywords())['greatest']
                ),
                true
            ),
        from rollup.frame_statistics as m
        semi join rollup.varying_number as s on m.SeriesInstanceUID = s.SeriesInstanceUID
    )
    on columns(* exclude (SeriesInstanceUID)) into name keyword value is_close
),

varying as (
    select
        f.SeriesInstanceUID,
        list(f.keyword order by f.keyword) as varying_numbers,
    from not_close as f
    group by f.SeriesInstanceUID
)

select
    s.* exclude (b),
    list_of_one(columns(values_keywords())) as "\0_values", -- noqa: RF05
    list_of_one(s.b) as b_values,
    [] as varying_numbers,
from constant as s
union all by name
select
    s.*,
    coalesce(v.varying_numbers, []) as varying_numbers,
from rollup.varying_number as s
left join varying as v on s.SeriesInstanceUID = v.SeriesInstanceUID;
