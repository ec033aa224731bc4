-- grain: one row per series and coverage rule that fired
-- meaning: labels of the regions that a text names, without those that the stack is too short for;
-- '' = none; NULL = unknown, because the stack shows only a part of what the text names
-- conflict: a coded region that contradicts the series text
-- source: paper 2.1.4; evidence.coverage
create view hit.coverage as
select
    SeriesInstanceUID, 'COV-LOCALIZER' as rule_id, '' as value,
    json_object('ImageType', image_types, 'SeriesDescription', SeriesDescription, 'word', scout)
        as evidence
from evidence.coverage
where scout is not null
union all by name
select
    SeriesInstanceUID, 'COV-MONITOR' as rule_id, '' as value,
    json_object(
        'SeriesDescription', SeriesDescription,
        'word', coalesce(monitor, bolus_start),
        'slice_count', slice_count
    ) as evidence
from evidence.coverage
where monitor is not null or bolus_start is not null and slice_count < min_slices()
union all by name
select
    SeriesInstanceUID, 'COV-SHEET' as rule_id, '' as value,
    json_object('SeriesDescription', SeriesDescription, 'word', sheet) as evidence
from evidence.coverage
where sheet is not null
union all by name
select
    SeriesInstanceUID, 'COV-FEW' as rule_id, '' as value,
    json_object('slice_count', slice_count) as evidence
from evidence.coverage
where slice_count < min_covering_slices() and not is_projection and not coalesce(mosaic, false)
union all by name
select
    SeriesInstanceUID, 'COV-INTERVENTION' as rule_id, '' as value,
    json_object(
        'SeriesDescription', SeriesDescription,
        'ProtocolName', ProtocolName,
        'StudyDescription', StudyDescription,
        'word', intervention
    ) as evidence
from evidence.coverage
where is_ct and intervention is not null
union all by name
select
    SeriesInstanceUID, 'COV-MRCP' as rule_id, '' as value,
    json_object('SeriesDescription', SeriesDescription, 'word', mrcp) as evidence
from evidence.coverage
where not is_ct and mrcp is not null
union all by name
select
    SeriesInstanceUID,
    'COV-CODED' as rule_id,
    if(coded.is_whole, join_labels(coded.labels), null) as value,
    coverage_evidence('AnatomicRegionSequence', coded_text, coded, coded.labels, box) as evidence
from evidence.coverage
where len(coded.regions) > 0
union all by name
select
    SeriesInstanceUID,
    'COV-ANGIO' as rule_id,
    join_labels(list_filter(shown.labels, lambda l: l = 'kidney')) as value,
    json_object(
        'SeriesDescription', SeriesDescription,
        'StudyDescription', StudyDescription,
        'word', coalesce(angio, study_angio),
        'regions', shown.regions
    ) as evidence
from (
    select
        *,
        case
            when len(series.regions) > 0 then series
            when len(study.regions) > 0 then study
            else folder
        end as shown,
    from evidence.coverage
) as e
where
    not is_ct
    and (angio is not null or study_angio is not null and len(series.regions) = 0)
    and list_has_any(shown.regions, ['abdomen', 'kidney'])
union all by name
select
    SeriesInstanceUID,
    'COV-LUNG' as rule_id,
    if(is_chest, join_labels(series.labels), '') as value,
    coverage_evidence('SeriesDescription', SeriesDescription, series, series.labels, box)
        as evidence
from (
    select
        *,
        protocol.regions || code.regions || study.regions || folder.regions as context,
        list_has_any(
            context || part.regions, ['chest', 'lung', 'torso', 'whole_body']
        )
        or len(context) = 0 as is_chest,
    from evidence.coverage
) as e
where is_ct and series.regions = ['lung']
union all by name
select
    SeriesInstanceUID,
    'COV-SERIES' as rule_id,
    if(series.is_whole, join_labels(series.labels), null) as value,
    coverage_evidence('SeriesDescription', SeriesDescription, series, series.labels, box)
        as evidence
from evidence.coverage
where len(series.regions) > 0 and not (is_ct and series.regions = ['lung'])
union all by name
select
    SeriesInstanceUID, 'COV-PROTOCOL' as rule_id, join_labels(protocol.labels) as value,
    coverage_evidence('ProtocolName', ProtocolName, protocol, protocol.labels, box) as evidence
from evidence.coverage
where len(protocol.regions) > 0 and protocol.is_whole
union all by name
select
    SeriesInstanceUID, 'COV-PROCEDURE' as rule_id, join_labels(code.labels) as value,
    coverage_evidence('ProcedureCodeSequence', procedure_text, code, code.labels, box) as evidence
from evidence.coverage
where len(code.regions) > 0 and code.is_whole
union all by name
select
    SeriesInstanceUID,
    'COV-STATION' as rule_id,
    join_labels(list_filter(study.labels, lambda l: list_contains(station, l))) as value,
    json_object(
        'StudyDescription', StudyDescription,
        'BodyPartExamined', BodyPartExamined,
        'regions', study.regions,
        'too_short', study.too_short,
        'height_mm', round(box.height_mm)
    ) as evidence
from (
    select
        *,
        if(list_contains(part.labels, 'kidney'), part.labels || ['liver'], part.labels) as station,
    from evidence.coverage
) as e
where
    not study.is_one_station
    and part.is_one_station
    and list_has_any(study.labels, station)
    and (not is_ct or not study.is_whole)
union all by name
select
    SeriesInstanceUID,
    'COV-STUDY' as rule_id,
    if(study.is_whole, join_labels(study.labels), null) as value,
    coverage_evidence('StudyDescription', StudyDescription, study, study.labels, box) as evidence
from evidence.coverage
where len(study.regions) > 0
union all by name
select
    SeriesInstanceUID,
    'COV-FOLDER' as rule_id,
    if(folder.is_whole, join_labels(folder.labels), null) as value,
    coverage_evidence('StudyDescription', StudyDescription, folder, folder.labels, box) as evidence
from evidence.coverage
where len(folder.regions) > 0
union all by name
select
    SeriesInstanceUID,
    'COV-STEP' as rule_id,
    if(step.is_whole, join_labels(step.labels), null) as value,
    coverage_evidence(
        'PerformedProcedureStepDescription',
        PerformedProcedureStepDescription,
        step,
        step.labels,
        box
    ) as evidence
from evidence.coverage
where len(step.regions) > 0
union all by name
select
    SeriesInstanceUID,
    'COV-BODY-PART' as rule_id,
    if(part.is_whole, join_labels(part.labels), null) as value,
    coverage_evidence('BodyPartExamined', BodyPartExamined, part, part.labels, box) as evidence
from evidence.coverage
where len(part.regions) > 0
union all by name
select
    SeriesInstanceUID, 'COV-HABIT' as rule_id, if(breast_habit is null, 'brain', 'breast') as value,
    json_object(
        'SeriesDescription', SeriesDescription,
        'word', coalesce(breast_habit, brain_habit)
    ) as evidence
from evidence.coverage
where not is_ct and (brain_habit is not null or breast_habit is not null)
union all by name
select
    SeriesInstanceUID, 'COV-COLLECTION' as rule_id, join_labels(place.labels) as value,
    coverage_evidence('collection', collection, place, place.labels, box) as evidence
from (
    select
        *,
        if(len(named.regions) > 0, named, site) as place,
    from evidence.coverage
) as e
where
    len(place.regions) > 0
    and place.is_whole
    and place.regions <> ['torso']
    and (is_ct or place.labels <> ['lung']);
