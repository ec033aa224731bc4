-- grain: one row per evaluated series
-- meaning: its patient as a number, for bootstraps by patient; is_unidentified: by its study,
-- because no PatientID is known; collection
with known as (
    select
        e.SeriesInstanceUID,
        nullif(trim(s.PatientID), '') as patient,
        coalesce(s.StudyInstanceUID, e.SeriesInstanceUID) as study,
        coalesce(s.collection, '') as collection,
    from evaluated as e
    left join series as s on e.SeriesInstanceUID = s.SeriesInstanceUID
)

select
    SeriesInstanceUID,
    dense_rank() over (order by coalesce(patient, study)) as patient,
    patient is null as is_unidentified,
    collection,
from known;
