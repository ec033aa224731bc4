-- grain: one row per wanted series
-- meaning: its labels, its rows of instances now, and whether its volume stands (is_known): made of
-- the same rows, its shard still there, or failed for good and not to be tried again
select
    w.*,
    h.harvested_at,
    h.n_rows,
    v.reason,
    coalesce(
        v.is_final
        and v.harvested_at = h.harvested_at
        and v.n_rows = h.n_rows
        and if(v.reason is null, v.shard in (select shard from shards), not $retry),
        false
    ) as is_known,
from wanted as w
inner join held as h on w.SeriesInstanceUID = h.SeriesInstanceUID
left join volumes as v
    on w.SeriesInstanceUID = v.SeriesInstanceUID and v.preprocessing = $preprocessing;
