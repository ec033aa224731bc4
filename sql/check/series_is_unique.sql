-- grain: one row per series with several rows
-- meaning: must be empty: a series has one row
select SeriesInstanceUID
from labelled.series
group by SeriesInstanceUID
having count(*) > 1;
