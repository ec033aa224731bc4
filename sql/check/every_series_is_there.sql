-- grain: one row per series of the roll-up that got lost
-- meaning: must be empty: labelling keeps every series of the roll-up
select s.SeriesInstanceUID
from stage.series as s
anti join labelled.series as l on s.SeriesInstanceUID = l.SeriesInstanceUID;
