-- grain: one row per series and part of `instances`
-- meaning: rows without a series UID are those of a folder; uri and Modality are read only for them
delete from held
where is_blank(SeriesInstanceUID);

insert into held
select
    folder_key(uri, Modality) as named,
    part,
    count(*),
    max(harvested_at),
from instances
where is_blank(SeriesInstanceUID) and object_kind <> 'dicomdir'
group by all;
