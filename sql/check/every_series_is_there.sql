-- grain: one row per series of the roll-up that got lost
select s.SeriesInstanceUID
from stage.series as s
anti join labelled.series as l on s.SeriesInstanceUID = l.SeriesInstanceUID;
