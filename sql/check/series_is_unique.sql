-- grain: one row per series that stands twice
select SeriesInstanceUID
from labelled.series
group by SeriesInstanceUID
having count(*) > 1;
