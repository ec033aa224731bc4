-- grain: one row per series, included or not
-- meaning: as `radnet-lake label` stored it
-- source: stored.series
create view series as
select *
from stored.series;
