-- grain: one row per series with frozen labels that has a stored volume of a preprocessing
-- meaning: its labels, the shard that holds the volume, and the place in it
select
    w.*,
    t.shard,
    t.position,
from labelled as w
inner join volumes as t on w.SeriesInstanceUID = t.SeriesInstanceUID
where t.preprocessing = $version and t.shard is not null
order by w.SeriesInstanceUID;
