-- grain: one row per series and sequence rule that fired, but the rules for MR (sequence_mr.sql)
-- meaning: the sequence by each rule; rules/sequence.csv has rank, tier and meaning
-- source: paper 2.1.1; DICOM PS3.3 C.8.2
create view hit.sequence as
with ct as (
    select * from evidence.sequence
    where is_ct
)

select SeriesInstanceUID, 'SEQ-NOT-IMAGE' as rule_id, null::varchar as value, sop_class as evidence
from evidence.sequence
where object_kind <> 'image'
union all by name
select SeriesInstanceUID, 'SEQ-SPECTRUM' as rule_id, 'SPECTRO' as value, sop_class as evidence
from evidence.sequence
where is_mr_spectrum(SOPClassUID)
union all by name
select SeriesInstanceUID, 'SEQ-OTHER-MODALITY' as rule_id, 'OTHER' as value, sop_class as evidence
from evidence.sequence
where
    object_kind = 'image' and not is_ct and not is_mr
    and coalesce(Modality, '') not in ('CT', 'MR') and not is_mr_spectrum(SOPClassUID)
union all by name
select SeriesInstanceUID, 'SEQ-CAPTURE' as rule_id, 'DERIVED' as value, sop_class as evidence
from evidence.sequence
where
    object_kind = 'image' and not is_ct and not is_mr and Modality in ('CT', 'MR')
    and not is_mr_spectrum(SOPClassUID)
union all by name
select
    SeriesInstanceUID, 'SEQ-COLOUR' as rule_id, 'DERIVED' as value,
    json_object('PhotometricInterpretation', PhotometricInterpretation) as evidence
from evidence.sequence
where (is_ct or is_mr) and PhotometricInterpretation not in ('MONOCHROME1', 'MONOCHROME2', '')
union all by name
select
    SeriesInstanceUID, 'SEQ-SCOUT-TYPE' as rule_id, 'LOCALIZER' as value,
    json_object('ImageType', ImageType) as evidence
from evidence.sequence
where (is_ct or is_mr) and type_scout is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-CT-SCOUT-WORD' as rule_id, 'LOCALIZER' as value,
    word_evidence(keyword, text, scout) as evidence
from ct
where scout is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-CT-DERIVED-TYPE' as rule_id, 'DERIVED' as value,
    json_object('ImageType', ImageType) as evidence
from ct
where type_derived is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-CT-DERIVED-WORD' as rule_id, 'DERIVED' as value,
    word_evidence(keyword, text, concat_ws(' ', derived_image, projection, perfusion_map))
        as evidence
from ct
where coalesce(derived_image, projection, perfusion_map) is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-CT' as rule_id, 'CT' as value,
    json_object('SOPClassUID', SOPClassUID, 'cone_beam', cone_beam) as evidence
from ct;
