-- grain: one row per series in which a number takes several values
-- meaning: what they agree on, and which values there are
-- source: frame.plane; the others have the value that rollup.measure has
create view rollup.spread as
with steady as (
    select m.SeriesInstanceUID
    from rollup.measure as m
    where
        coalesce(m.b['least'] = m.b['greatest'], true)
        -- All of them: columns() in a condition is joined by AND.
        and coalesce(
            columns(number_keywords())['least'] = columns(number_keywords())['greatest'], true
        )
),

unsteady as (
    select m.SeriesInstanceUID
    from rollup.measure as m
    anti join steady as s on m.SeriesInstanceUID = s.SeriesInstanceUID
)

select
    p.SeriesInstanceUID,
    agreed_number(columns(number_keywords())),
    distinct_values(columns(values_keywords())) as "\0_values", -- noqa: RF05
    distinct_values(p.b) as b_values,
from frame.plane as p
semi join unsteady as u on p.SeriesInstanceUID = u.SeriesInstanceUID
group by p.SeriesInstanceUID;
