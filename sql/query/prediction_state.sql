-- grain: one row per wanted series
-- meaning: its rows of instances now; is_stored: a volume of the preprocessing is stored, made of
-- them; is_known: the checkpoint has predicted it from them, or it failed for good and is not tried
-- again
select
    w.SeriesInstanceUID,
    w.last_harvested_at as harvested_at,
    w.n_frames as n_rows,
    coalesce(
        v.shard is not null
        -- NULL: volumes of a lake that has no files
        and coalesce(v.harvested_at = w.last_harvested_at and v.n_rows = w.n_frames, true),
        false
    ) as is_stored,
    p.reason,
    coalesce(
        p.is_final
        and p.harvested_at is not distinct from w.last_harvested_at
        and p.n_rows is not distinct from w.n_frames
        and (p.reason is null or not $retry),
        false
    ) as is_known,
from wanted as w
left join volumes as v
    on w.SeriesInstanceUID = v.SeriesInstanceUID and v.preprocessing = $preprocessing
left join predictions as p
    on w.SeriesInstanceUID = p.SeriesInstanceUID and p.checkpoint = $checkpoint
order by w.SeriesInstanceUID;
