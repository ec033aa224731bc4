-- grain: one row per file or archive member that gave no instance
-- meaning: files that gave no instance; reason: for programs; detail: for people
-- source: stored.rejects without the rows that a changed or vanished file left
create view rejects as
select j.*
from stored.rejects as j
anti join stored.removals as r
    on coalesce(j.archive_uri, j.uri) = r.uri and j.harvested_at = r.removed_harvested_at;
