-- grain: one row per listed file or object of the store, archives included
-- meaning: what harvesting knows of each file, so that it need not read it again
-- source: stored.files without the rows that a changed or vanished file left
create view files as
select f.*
from stored.files as f
anti join stored.removals as r
    on f.uri = r.uri and f.harvested_at = r.removed_harvested_at;
