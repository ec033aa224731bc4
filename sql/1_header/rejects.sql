-- grain: one row per file or archive member that gave no instance
-- meaning: what was refused, and why: reason is machine-readable, detail says more
-- source: stored.rejects without the rows that a changed or vanished file left
create view rejects as
select j.*
from stored.rejects as j
anti join stored.removals as r
    on coalesce(j.archive_uri, j.uri) = r.uri and j.harvested_at = r.removed_harvested_at;
