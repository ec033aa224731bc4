-- grain: one row per wanted series
-- meaning: its place in the order of reading: series of one archive follow each other; a number,
-- because numbers sort far faster than names
create temp table places as
select
    f.SeriesInstanceUID,
    row_number() over (order by min(f.archive_uri) nulls first, f.SeriesInstanceUID) - 1 as place,
from frames as f
semi join wanted as w on f.SeriesInstanceUID = w.SeriesInstanceUID
group by f.SeriesInstanceUID;
