-- grain: changed: one row per series to roll up; stale: one row per series whose stored row goes
-- meaning: a series changed if its number of rows or its youngest row is not that of the roll-up
create table changed as
with present as (
    select
        SeriesInstanceUID,
        sum(n) as n,
        max(newest) as newest,
        min(part) as first_part,
        max(part) as last_part,
    from held
    group by all
),

stored as (
    select
        SeriesInstanceUID,
        n_frames as n,
        last_harvested_at as newest,
        count(*) as n_rows,
    from rolled
    group by all
)

select
    p.SeriesInstanceUID,
    p.n,
    p.first_part,
    p.last_part,
from present as p
left join stored as s on p.SeriesInstanceUID = s.SeriesInstanceUID
where s.n is distinct from p.n or s.newest is distinct from p.newest or s.n_rows > 1;

create table stale as
select distinct r.SeriesInstanceUID
from rolled as r
semi join changed as c on r.SeriesInstanceUID = c.SeriesInstanceUID
union all
select distinct r.SeriesInstanceUID
from rolled as r
anti join held as h on r.SeriesInstanceUID = h.SeriesInstanceUID;
