-- grain: one row per frame of a wanted series
-- meaning: rows that stand, under the name of their series
-- source: instances
create view frame.live as
select i.*
from instances as i
semi join frame.wanted as w on i.SeriesInstanceUID = w.SeriesInstanceUID;
