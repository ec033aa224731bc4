-- grain: one row per harvest run
-- meaning: what the run saw; objects_seen = instances + rejects + known
-- source: the last record of each run in the log
create view runs as
select
    r.*,
    r.objects_seen = r.instances + r.rejects + r.known as adds_up
from stored.runs as r
order by r.started_at;
comment on column runs.adds_up is 'objects_seen = instances + rejects + known';
