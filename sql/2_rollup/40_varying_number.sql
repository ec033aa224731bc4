-- grain: one row per series in which a number has several values
-- meaning: the value that its frames agree on within a tolerance, else NULL; the distinct values
-- source: frame.plane; other series have the value of rollup.frame_statistics
create view rollup.varying_number as
with constant as (
    select m.SeriesInstanceUID
    from rollup.frame_statistics as m
    where
        coalesce(m.b['least'] = m.b['greatest'], true)
        -- All of them: columns() in a condition is joined by AND.
        and coalesce(
            columns(number_keywords())['least'] = columns(number_keywords())['greatest'], true
        )
),

varying as (
    select m.SeriesInstanceUID
    from rollup.frame_statistics as m
    anti join constant as s on m.SeriesInstanceUID = s.SeriesInstanceUID
)

select
    p.SeriesInstanceUID,
    agreed_number(columns(number_keywords())),
    distinct_values(columns(values_keywords())) as "\0_values", -- noqa: RF05
    distinct_values(p.b) as b_values,
from frame.plane as p
semi join varying as u on p.SeriesInstanceUID = u.SeriesInstanceUID
group by p.SeriesInstanceUID;
