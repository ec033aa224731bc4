-- grain: one row per series
-- meaning: what all rows agree on, NULL where they do not; what most are (SOPClassUID, Modality,
-- object_kind); sets of the words that list something
-- source: rollup.word; empty values and rows without the attribute contradict nobody
create view rollup.text as
with kind as (
    select
        w.SeriesInstanceUID,
        w.SOPClassUID,
        w.Modality,
        w.object_kind,
        sum(w.n_rows) as n_rows,
    from rollup.word as w
    where w.n > 1
    group by all
),

-- One report or screen save among its images does not change what a series is.
main_kind as (
    select k.* exclude (n_rows)
    from kind as k
    qualify
        row_number() over (
            partition by k.SeriesInstanceUID
            order by k.object_kind = 'image' desc, k.n_rows desc, k.SOPClassUID asc, k.Modality asc
        ) = 1
),

agreed as (
    -- Most series say one thing; nothing is to be compared there.
    select
        w.* exclude (
            n, n_rows, image_type, flags, empty_keywords, unparseable_keywords, multivalued_keywords
        ),
        if(w.image_type <> '', [w.image_type], []) as image_types,
        distinct_words([w.flags]) as flags,
        distinct_words([w.empty_keywords]) as empty_keywords,
        distinct_words([w.unparseable_keywords]) as unparseable_keywords,
        distinct_words([w.multivalued_keywords]) as multivalued_keywords,
        if(w.StudyInstanceUID <> '', 1, 0) as n_studies,
        if(w.PatientID <> '', 1, 0) as n_patients,
    from rollup.word as w
    where w.n = 1
    union all by name
    select
        w.SeriesInstanceUID,
        min(k.SOPClassUID) as SOPClassUID,
        min(k.Modality) as Modality,
        min(k.object_kind) as object_kind,
        agreed(
            columns(
                w.* exclude (
                    SeriesInstanceUID,
                    SOPClassUID,
                    Modality,
                    object_kind,
                    n,
                    n_rows,
                    image_type,
                    flags,
                    empty_keywords,
                    unparseable_keywords,
                    multivalued_keywords
                )
            )
        ),
        list(distinct w.image_type order by w.image_type) filter (where w.image_type <> '')
            as image_types,
        distinct_words(list(w.flags)) as flags,
        distinct_words(list(w.empty_keywords)) as empty_keywords,
        distinct_words(list(w.unparseable_keywords)) as unparseable_keywords,
        distinct_words(list(w.multivalued_keywords)) as multivalued_keywords,
        count(distinct nullif(w.StudyInstanceUID, '')) as n_studies,
        count(distinct if(w.PatientID <> '', hash(w.PatientID, w.IssuerOfPatientID), null))
            as n_patients,
    from rollup.word as w
    inner join main_kind as k on w.SeriesInstanceUID = k.SeriesInstanceUID
    where w.n > 1
    group by w.SeriesInstanceUID
)

select
    a.* replace (
        -- A series that names no study is a study of its own.
        if(
            a.n_studies = 0,
            if(starts_with(a.SeriesInstanceUID, 'no-uid/'), '', 'no-uid/') || a.SeriesInstanceUID,
            a.StudyInstanceUID
        ) as StudyInstanceUID,
        coalesce(a.image_types[1:max_image_types()::bigint], []) as image_types
    ),
from agreed as a;
