-- grain: one row per series and preprocessing
-- meaning: the resized volume and where it is stored, or why there is none
-- source: stored.volumes, of several rows the last
create view volumes as
select v.*
from stored.volumes as v
qualify
    row_number() over (
        partition by v.SeriesInstanceUID, v.preprocessing
        order by v.made_at desc, v.shard desc nulls last
    ) = 1;
