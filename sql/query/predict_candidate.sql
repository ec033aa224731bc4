-- grain: one row per series whose pixels may make a volume
-- meaning: series of the lake that no exclusion speaks against, but those which concern words and
-- labels only; frames of two patients under one series UID are no volume
create temp view candidate as
select
    s.*,
    t.split,
from series as s
left join training_set as t on s.SeriesInstanceUID = t.SeriesInstanceUID
where
    list_has_all(['nodesc', 'time', 'seq', 'stir', 'view', 'conflict'], s.exclusions)
    and coalesce(s.n_studies, 1) <= 1
    and coalesce(s.n_patients, 1) <= 1;
