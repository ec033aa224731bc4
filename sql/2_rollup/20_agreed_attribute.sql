-- grain: one row per series
-- meaning: each attribute's value where all frames agree, else NULL; the most frequent SOPClassUID,
-- Modality and object_kind; the union of the lists of keywords and flags
-- source: rollup.attribute_combination; empty values and frames without the attribute do not count
create view rollup.agreed_attribute as
with kind as (
    select
        c.SeriesInstanceUID,
        c.SOPClassUID,
        c.Modality,
        c.object_kind,
        sum(c.n_rows) as n_rows,
    from rollup.attribute_combination as c
    where c.n_combinations > 1
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
    -- Most series have one combination, so that nothing must be compared.
    select
        c.* exclude (
            n_combinations,
            n_rows,
            image_type,
            flags,
            empty_keywords,
            unparseable_keywords,
            multivalued_keywords
        ),
        if(c.image_type <> '', [c.image_type], []) as image_types,
        distinct_texts([c.flags]) as flags,
        distinct_texts([c.empty_keywords]) as empty_keywords,
        distinct_texts([c.unparseable_keywords]) as unparseable_keywords,
        distinct_texts([c.multivalued_keywords]) as multivalued_keywords,
        if(c.StudyInstanceUID <> '', 1, 0) as n_studies,
        if(c.PatientID <> '', 1, 0) as n_patients,
    from rollup.attribute_combination as c
    where c.n_combinations = 1
    union all by name
    select
        c.SeriesInstanceUID,
        min(k.SOPClassUID) as SOPClassUID,
        min(k.Modality) as Modality,
        min(k.object_kind) as object_kind,
        agreed(
            columns(
                c.* exclude (
                    SeriesInstanceUID,
                    SOPClassUID,
                    Modality,
                    object_kind,
                    n_combinations,
                    n_rows,
                    image_type,
                    flags,
                    empty_keywords,
                    unparseable_keywords,
                    multivalued_keywords
                )
            )
        ),
        list(distinct c.image_type order by c.image_type) filter (where c.image_type <> '')
            as image_types,
        distinct_texts(list(c.flags)) as flags,
        distinct_texts(list(c.empty_keywords)) as empty_keywords,
        distinct_texts(list(c.unparseable_keywords)) as unparseable_keywords,
        distinct_texts(list(c.multivalued_keywords)) as multivalued_keywords,
        count(distinct nullif(c.StudyInstanceUID, '')) as n_studies,
        count(distinct if(c.PatientID <> '', hash(c.PatientID, c.IssuerOfPatientID), null))
            as n_patients,
    from rollup.attribute_combination as c
    inner join main_kind as k on c.SeriesInstanceUID = k.SeriesInstanceUID
    where c.n_combinations > 1
    group by c.SeriesInstanceUID
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
