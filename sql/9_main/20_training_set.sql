-- grain: one row per included series
-- meaning: the series to train on, divided into parts; no patient is in two parts
-- source: paper 3 and Tables A1, A2; parts by hash of the patient, who is joined with others over
-- shared studies and frames of reference, and by the paper's own division into collections
create view training_set as
with member as (
    select
        SeriesInstanceUID,
        coalesce(nullif(trim(PatientID), ''), StudyInstanceUID, SeriesInstanceUID) as patient,
        StudyInstanceUID as study,
        nullif(FrameOfReferenceUID, '') as frame,
    from series
    where excluded_by is null
),

shared as (
    select list(distinct patient order by patient) as patients
    from member
    group by study
    having count(distinct patient) > 1

    union all
    select list(distinct patient order by patient)
    from member
    where frame is not null
    group by frame
    having count(distinct patient) between 2 and max_patients_of_frame()
),

edge as (
    select patients[1] as patient, unnest(patients) as other
    from shared
    union
    select unnest(patients), patients[1]
    from shared
),

linked as (
    with recursive reach as (
        select patient, other
        from edge
        union
        select r.patient, e.other
        from reach as r
        inner join edge as e on r.other = e.patient
    )

    select patient, min(other) as root
    from reach
    group by patient
),

grouped as (
    select
        m.SeriesInstanceUID,
        coalesce(least(l.root, m.patient), m.patient) as split_group,
        c.role,
    from member as m
    inner join series as s on m.SeriesInstanceUID = s.SeriesInstanceUID
    left join linked as l on m.patient = l.patient
    left join rule.collections as c
        on regexp_replace(lower(s.collection), '[^a-z0-9]', '', 'g') = c.collection_key
),

chanced as (
    select
        SeriesInstanceUID,
        split_group,
        role,
        ('0x' || left(md5(split_seed()::varchar || '/' || split_group), 13))::bigint
        / 16 ** 13 as chance,
        bool_or(role = 'test') over (partition by split_group) as is_held_out,
    from grouped
)

select
    s.SeriesInstanceUID,
    s.StudyInstanceUID,
    s.PatientID,
    s.collection,
    s.Modality,
    s.sequence,
    s."view",
    s.contrast,
    s.coverage,
    s.effective_spacing_mm,
    s.slice_count,
    s.slice_spacing_mm,
    case
        when g.chance < split_train_share() then 'train'
        when g.chance < split_train_share() + split_validation_share() then 'validation'
        else 'test'
    end as split,
    case
        when g.role = 'test' then 'test'
        when g.is_held_out or g.role is null then null
        when g.chance < 1 - paper_validation_share() then 'train'
        else 'validation'
    end as paper_split,
    g.split_group,
from series as s
inner join chanced as g on s.SeriesInstanceUID = g.SeriesInstanceUID;
comment on view training_set is 'included series, each in one part; no patient in two';
comment on column training_set.split is 'train, validation or test by a hash of split_group';
comment on column training_set.paper_split is
'the paper''s division: its Table A2 is test; NULL: not in the paper, or linked to test';
comment on column training_set.split_group is
'patient, or patients joined by a shared study or frame of reference';
comment on column training_set.SeriesInstanceUID is 'series';
comment on column training_set.StudyInstanceUID is 'study';
comment on column training_set.PatientID is 'patient';
comment on column training_set.collection is 'the named part of the archive';
comment on column training_set.Modality is 'modality';
comment on column training_set.sequence is 'as in series';
comment on column training_set."view" is 'as in series';
comment on column training_set.contrast is 'as in series';
comment on column training_set.coverage is 'as in series';
comment on column training_set.effective_spacing_mm is
'slice spacing after resizing to 48 slices, mm';
comment on column training_set.slice_count is 'slice locations';
comment on column training_set.slice_spacing_mm is 'distance of slices along the normal, mm';
