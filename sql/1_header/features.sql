-- grain: one row per series and checkpoint
-- meaning: what the network makes of a volume before it names labels: like series, like numbers
-- source: stored.features, of several rows the last, of series that are still there
create view features as
select f.*
from stored.features as f
semi join stored.series as s on f.SeriesInstanceUID = s.SeriesInstanceUID
qualify
    row_number() over (
        partition by f.SeriesInstanceUID, f.checkpoint
        order by f.predicted_at desc
    ) = 1;
