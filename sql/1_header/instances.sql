-- grain: one row per frame of a multi-frame image, or per single-frame instance or other object
-- meaning: header values of the files that the lake holds now
-- source: stored.instances without the rows that a changed or vanished file left
create view instances as
select i.*
from stored.instances as i
anti join stored.removals as r
    on coalesce(i.archive_uri, i.uri) = r.uri and i.harvested_at = r.removed_harvested_at;
