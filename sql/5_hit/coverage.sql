-- grain: one row per series and coverage rule that fired
-- meaning: labels of the regions that a text names, less those the stack is too short for; '' =
-- none; NULL = too short for all that the text names together, and nothing says which part
-- conflict: a coded region that contradicts the series text
-- source: paper 2.1.4; evidence.coverage
create view hit.coverage as
select
    SeriesInstanceUID,
    'COV-LOCALIZER' as rule_id,
    '' as value,
    json_object('ImageType', image_types, 'SeriesDescription', SeriesDescription, 'word', scout)
        as evidence,
from evidence.coverage
where scout is not null

union all

select
    SeriesInstanceUID,
    'COV-MONITOR',
    '',
    json_object(
        'SeriesDescription', SeriesDescription,
        'word', coalesce(monitor, bolus_start),
        'slice_count', slice_count
    ),
from evidence.coverage
where monitor is not null or bolus_start is not null and slice_count < min_slices()

union all

select
    SeriesInstanceUID,
    'COV-SHEET',
    '',
    json_object('SeriesDescription', SeriesDescription, 'word', sheet),
from evidence.coverage
where sheet is not null

union all

select
    SeriesInstanceUID,
    'COV-FEW',
    '',
    json_object('slice_count', slice_count),
from evidence.coverage
where slice_count < min_covering_slices() and not is_projection and not coalesce(mosaic, false)

union all

select
    SeriesInstanceUID,
    'COV-INTERVENTION',
    '',
    json_object(
        'SeriesDescription', SeriesDescription,
        'ProtocolName', ProtocolName,
        'StudyDescription', StudyDescription,
        'word', intervention
    ),
from evidence.coverage
where is_ct and intervention is not null

union all

select
    SeriesInstanceUID,
    'COV-MRCP',
    '',
    json_object('SeriesDescription', SeriesDescription, 'word', mrcp),
from evidence.coverage
where not is_ct and mrcp is not null

union all

select
    SeriesInstanceUID,
    'COV-CODED',
    if(coded.is_whole, join_labels(coded.labels), null),
    coverage_evidence('AnatomicRegionSequence', coded_text, coded, coded.labels, box),
from evidence.coverage
where len(coded.regions) > 0

union all

select
    SeriesInstanceUID,
    'COV-ANGIO',
    join_labels(list_filter(shown.labels, lambda l: l = 'kidney')),
    json_object(
        'SeriesDescription', SeriesDescription,
        'StudyDescription', StudyDescription,
        'word', coalesce(angio, study_angio),
        'regions', shown.regions
    ),
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

union all

select
    SeriesInstanceUID,
    'COV-LUNG',
    if(is_chest, join_labels(series.labels), ''),
    coverage_evidence('SeriesDescription', SeriesDescription, series, series.labels, box),
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

union all

select
    SeriesInstanceUID,
    'COV-SERIES',
    if(series.is_whole, join_labels(series.labels), null),
    coverage_evidence('SeriesDescription', SeriesDescription, series, series.labels, box),
from evidence.coverage
where len(series.regions) > 0 and not (is_ct and series.regions = ['lung'])

union all

select
    SeriesInstanceUID,
    'COV-PROTOCOL',
    join_labels(protocol.labels),
    coverage_evidence('ProtocolName', ProtocolName, protocol, protocol.labels, box),
from evidence.coverage
where len(protocol.regions) > 0 and protocol.is_whole

union all

select
    SeriesInstanceUID,
    'COV-PROCEDURE',
    join_labels(code.labels),
    coverage_evidence('ProcedureCodeSequence', procedure_text, code, code.labels, box),
from evidence.coverage
where len(code.regions) > 0 and code.is_whole

union all

select
    SeriesInstanceUID,
    'COV-STATION',
    join_labels(list_filter(study.labels, lambda l: list_contains(station, l))),
    json_object(
        'StudyDescription', StudyDescription,
        'BodyPartExamined', BodyPartExamined,
        'regions', study.regions,
        'too_short', study.too_short,
        'height_mm', round(box.height_mm)
    ),
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

union all

select
    SeriesInstanceUID,
    'COV-STUDY',
    if(study.is_whole, join_labels(study.labels), null),
    coverage_evidence('StudyDescription', StudyDescription, study, study.labels, box),
from evidence.coverage
where len(study.regions) > 0

union all

select
    SeriesInstanceUID,
    'COV-FOLDER',
    if(folder.is_whole, join_labels(folder.labels), null),
    coverage_evidence('StudyDescription', StudyDescription, folder, folder.labels, box),
from evidence.coverage
where len(folder.regions) > 0

union all

select
    SeriesInstanceUID,
    'COV-STEP',
    if(step.is_whole, join_labels(step.labels), null),
    coverage_evidence(
        'PerformedProcedureStepDescription',
        PerformedProcedureStepDescription,
        step,
        step.labels,
        box
    ),
from evidence.coverage
where len(step.regions) > 0

union all

select
    SeriesInstanceUID,
    'COV-BODY-PART',
    if(part.is_whole, join_labels(part.labels), null),
    coverage_evidence('BodyPartExamined', BodyPartExamined, part, part.labels, box),
from evidence.coverage
where len(part.regions) > 0

union all

select
    SeriesInstanceUID,
    'COV-HABIT',
    if(breast_habit is null, 'brain', 'breast'),
    json_object(
        'SeriesDescription', SeriesDescription,
        'word', coalesce(breast_habit, brain_habit)
    ),
from evidence.coverage
where not is_ct and (brain_habit is not null or breast_habit is not null)

union all

select
    SeriesInstanceUID,
    'COV-COLLECTION',
    join_labels(place.labels),
    coverage_evidence('collection', collection, place, place.labels, box),
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
