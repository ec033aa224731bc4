-- grain: one row per wanted series that the lake holds
-- meaning: how many rows of instances it has, and the youngest of them
select
    f.SeriesInstanceUID,
    max(f.harvested_at) as harvested_at,
    count(*) as n_rows,
from frames as f
semi join wanted as w on f.SeriesInstanceUID = w.SeriesInstanceUID
group by f.SeriesInstanceUID;
