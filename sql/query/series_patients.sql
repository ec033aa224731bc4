-- grain: one row per wanted series that the lake holds
-- meaning: its study, and its patient; without a PatientID the study stands for the patient
select
    i.SeriesInstanceUID,
    min(i.StudyInstanceUID) as StudyInstanceUID,
    coalesce(nullif(min(i.PatientID), ''), 'study ' || min(i.StudyInstanceUID)) as patient,
from instances as i
semi join wanted as w on i.SeriesInstanceUID = w.SeriesInstanceUID
group by i.SeriesInstanceUID;
