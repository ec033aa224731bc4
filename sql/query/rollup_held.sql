-- grain: one row per series and part of `instances`
-- meaning: how many of the series' rows the part holds, and the youngest of them
create table held as
select
    SeriesInstanceUID,
    part,
    count(*) as n,
    max(harvested_at) as newest,
from instances
group by all;
