-- grain: one row per series with several rows
select SeriesInstanceUID
from labelled.series
group by SeriesInstanceUID
having count(*) > 1;
