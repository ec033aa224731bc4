-- grain: one row per series and checkpoint
-- meaning: the labels that a network gives, or why there was no volume to show it
-- source: stored.predictions, of several rows the last, of series that are still there
create view predictions as
select p.*
from stored.predictions as p
semi join stored.series as s on p.SeriesInstanceUID = s.SeriesInstanceUID
qualify
    row_number() over (
        partition by p.SeriesInstanceUID, p.checkpoint
        order by p.predicted_at desc
    ) = 1;
