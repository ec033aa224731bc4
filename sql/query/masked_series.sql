-- grain: one row per wanted image series that a mask belongs to
-- meaning: its masks, its patient and study, and a stamp that changes with its files
select
    m.SeriesInstanceUID,
    any_value(m.StudyInstanceUID) as StudyInstanceUID,
    any_value(m.PatientID) as PatientID,
    list([m.mask, m.archive_uri] order by m.SOPInstanceUID, m.mask) as masks,
    greatest(max(m.harvested_at), max(m.mask_at))::varchar as stamp,
from masked_image as m
where m.SeriesInstanceUID in (select w.SeriesInstanceUID from wanted as w)
group by m.SeriesInstanceUID
order by m.SeriesInstanceUID;
