-- grain: one row per series
-- meaning: what all rows agree on, NULL where they do not; sets of the words that list something
-- source: rollup.word; empty values and rows without the attribute contradict nobody
create view rollup.text as
with agreed as (
    -- Most series say one thing; nothing is to be compared there.
    select
        w.* exclude (
            n, image_type, flags, empty_keywords, unparseable_keywords, multivalued_keywords
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
        agreed(
            columns(
                w.* exclude (
                    SeriesInstanceUID,
                    n,
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
