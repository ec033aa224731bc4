-- grain: one row per series and contrast rule that fired
-- meaning: 'true': an agent is in the vessels of this series; 'false': none is; NULL = unknown
-- conflict: a series name that affirms and denies; an agent named before its bolus or against it
-- source: paper 2.1.3; DICOM PS3.3 C.7.6.4, C.7.6.4b; rules/contrast.csv
create view hit.contrast as
select
    SeriesInstanceUID, 'CON-PHASE-PRE' as rule_id, 'false' as value,
    json_object('ContrastBolusAgentPhase', ContrastBolusAgentPhase) as evidence
from evidence.contrast
where ContrastBolusAgentPhase = 'PRE_CONTRAST'
union all by name
select
    SeriesInstanceUID, 'CON-PHASE-POST' as rule_id, 'true' as value,
    json_object('ContrastBolusAgentPhase', ContrastBolusAgentPhase) as evidence
from evidence.contrast
where ContrastBolusAgentPhase not in ('PRE_CONTRAST', '')
union all by name
select
    SeriesInstanceUID, 'CON-ADMINISTERED-NO' as rule_id, 'false' as value,
    json_object('ContrastBolusAgentAdministered', ContrastBolusAgentAdministered) as evidence
from evidence.contrast
where ContrastBolusAgentAdministered = 'NO'
union all by name
select
    SeriesInstanceUID, 'CON-ADMINISTERED-YES' as rule_id, 'true' as value,
    json_object('ContrastBolusAgentAdministered', ContrastBolusAgentAdministered) as evidence
from evidence.contrast
where ContrastBolusAgentAdministered = 'YES'
union all by name
select
    SeriesInstanceUID, 'CON-SERIES-MIXED' as rule_id, null as value,
    json_object('SeriesDescription', SeriesDescription, 'word', series_mixed) as evidence
from evidence.contrast
where series_mixed is not null
union all by name
select
    SeriesInstanceUID, 'CON-SERIES-SPAN' as rule_id, 'true' as value,
    json_object('SeriesDescription', SeriesDescription, 'word', series_span) as evidence
from evidence.contrast
where series_span is not null and first_phase is null
union all by name
select
    SeriesInstanceUID, 'CON-SERIES-NO' as rule_id, 'false' as value,
    json_object('SeriesDescription', SeriesDescription, 'word', series_no) as evidence
from evidence.contrast
where
    series_no is not null
    and coalesce(series_yes, series_mixed, series_span) is null
union all by name
select
    SeriesInstanceUID, 'CON-SERIES-YES' as rule_id, 'true' as value,
    json_object('SeriesDescription', SeriesDescription, 'word', series_yes) as evidence
from evidence.contrast
where
    series_yes is not null
    and coalesce(series_no, series_mixed, series_span) is null
    and (first_phase is null or series_implied is null)
union all by name
select
    SeriesInstanceUID, 'CON-SERIES-FIRST' as rule_id, null as value,
    json_object('SeriesDescription', SeriesDescription, 'word', first_phase) as evidence
from evidence.contrast
where
    first_phase is not null and (series_no is null or series_span is not null)
    and (series_yes is null or coalesce(series_implied, series_span) is not null)
union all by name
select
    SeriesInstanceUID, 'CON-SERIES-IMPLIED' as rule_id, 'true' as value,
    json_object('SeriesDescription', SeriesDescription, 'word', series_implied) as evidence
from evidence.contrast
where series_implied is not null and coalesce(series_no, first_phase) is null
union all by name
select
    SeriesInstanceUID, 'CON-SCOUT' as rule_id, 'false' as value,
    json_object('SeriesDescription', SeriesDescription, 'word', scout) as evidence
from evidence.contrast
where Modality = 'CT' and scout is not null
union all by name
select
    SeriesInstanceUID,
    'CON-CLASH-AGENT' as rule_id,
    if(agent = 'given' or is_coded_given, 'true', 'false') as value,
    json_object(
        'SeriesDescription', SeriesDescription,
        'words', [series_no, series_yes],
        'ContrastBolusAgent', ContrastBolusAgent
    ) as evidence
from evidence.contrast
where
    series_no is not null and series_yes is not null and series_mixed is null
    and series_span is null
    and (agent in ('given', 'none', 'enteral') or is_coded_given or is_coded_enteral)
union all by name
select
    SeriesInstanceUID, 'CON-PRE-BOLUS' as rule_id, 'false' as value,
    json_object(
        'ContrastBolusStartTime', ContrastBolusStartTime,
        'AcquisitionTime', acquisition_end_s,
        'ContrastBolusAgent', ContrastBolusAgent
    ) as evidence
from evidence.contrast
where
    (agent = 'given' or is_coded_given)
    and ContrastBolusStartTime - acquisition_end_s
    between pre_bolus_margin_s() and pre_bolus_most_s()
union all by name
select
    SeriesInstanceUID, 'CON-CODED-GIVEN' as rule_id, 'true' as value,
    json_object(
        'ContrastBolusAgentSequence', ContrastBolusAgentSequence,
        'ContrastBolusIngredient', ContrastBolusIngredient
    ) as evidence
from evidence.contrast
where is_coded_given
union all by name
select
    SeriesInstanceUID, 'CON-CODED-ENTERAL' as rule_id, 'false' as value,
    json_object(
        'ContrastBolusAgentSequence', ContrastBolusAgentSequence,
        'ContrastBolusIngredient', ContrastBolusIngredient,
        'ContrastBolusRoute', ContrastBolusRoute,
        'ContrastBolusAdministrationRouteSequence', ContrastBolusAdministrationRouteSequence,
        'oral', true
    ) as evidence
from evidence.contrast
where is_coded_enteral and not is_coded_given
union all by name
select
    SeriesInstanceUID, 'CON-AGENT-GIVEN' as rule_id, 'true' as value,
    json_object('ContrastBolusAgent', ContrastBolusAgent) as evidence
from evidence.contrast
where agent = 'given'
union all by name
select
    SeriesInstanceUID, 'CON-AGENT-NONE' as rule_id, 'false' as value,
    json_object('ContrastBolusAgent', ContrastBolusAgent) as evidence
from evidence.contrast
where agent = 'none'
union all by name
select
    SeriesInstanceUID, 'CON-AGENT-ENTERAL' as rule_id, 'false' as value,
    json_object(
        'ContrastBolusAgent', ContrastBolusAgent,
        'ContrastBolusRoute', ContrastBolusRoute,
        'oral', true
    ) as evidence
from evidence.contrast
where agent = 'enteral'
union all by name
select
    SeriesInstanceUID, 'CON-DOSE' as rule_id, 'true' as value,
    json_object(
        'ContrastBolusVolume', ContrastBolusVolume,
        'ContrastBolusTotalDose', ContrastBolusTotalDose
    ) as evidence
from evidence.contrast
where
    agent in ('absent', 'empty', 'unknown') and not is_route_enteral
    and (ContrastBolusVolume > 0 or ContrastBolusTotalDose > 0)
union all by name
select
    SeriesInstanceUID,
    'CON-CLASH-STUDY' as rule_id,
    if(coalesce(protocol_no, study_no) is null, 'true', 'false') as value,
    json_object(
        'SeriesDescription', SeriesDescription,
        'words', [series_no, series_yes],
        'StudyDescription', StudyDescription,
        'ProtocolName', ProtocolName
    ) as evidence
from evidence.contrast
where
    series_no is not null and series_yes is not null and series_mixed is null
    and series_span is null
    and coalesce(protocol_mixed, study_mixed) is null
    and (coalesce(protocol_no, study_no) is null)
    <> (coalesce(protocol_yes, if(Modality = 'CT', study_yes, null)) is null)
union all by name
select
    SeriesInstanceUID, 'CON-FEW-SLICES' as rule_id, null as value,
    json_object(
        'slice_count', slice_count,
        'word', coalesce(protocol_yes, study_yes)
    ) as evidence
from evidence.contrast
where is_few and coalesce(protocol_yes, study_yes) is not null
union all by name
select
    SeriesInstanceUID, 'CON-PROTOCOL-MIXED' as rule_id, null as value,
    json_object(
        'ProtocolName', ProtocolName,
        'word', coalesce(protocol_mixed, protocol_no)
    ) as evidence
from evidence.contrast
where protocol_mixed is not null or (protocol_no is not null and protocol_yes is not null)
union all by name
select
    SeriesInstanceUID, 'CON-PROTOCOL-NO' as rule_id, 'false' as value,
    json_object('ProtocolName', ProtocolName, 'word', protocol_no) as evidence
from evidence.contrast
where protocol_no is not null and coalesce(protocol_yes, protocol_mixed) is null
union all by name
select
    SeriesInstanceUID, 'CON-PROTOCOL-YES' as rule_id, 'true' as value,
    json_object('ProtocolName', ProtocolName, 'word', protocol_yes) as evidence
from evidence.contrast
where protocol_yes is not null and coalesce(protocol_no, protocol_mixed) is null
union all by name
select
    SeriesInstanceUID, 'CON-STUDY-MIXED' as rule_id, null as value,
    json_object(
        'StudyDescription', StudyDescription,
        'PerformedProcedureStepDescription', PerformedProcedureStepDescription,
        'word', coalesce(study_mixed, study_no)
    ) as evidence
from evidence.contrast
where study_mixed is not null or (study_no is not null and study_yes is not null)
union all by name
select
    SeriesInstanceUID, 'CON-STUDY-NO' as rule_id, 'false' as value,
    json_object(
        'StudyDescription', StudyDescription,
        'PerformedProcedureStepDescription', PerformedProcedureStepDescription,
        'word', study_no
    ) as evidence
from evidence.contrast
where study_no is not null and coalesce(study_yes, study_mixed) is null
union all by name
select
    SeriesInstanceUID, 'CON-STUDY-CT' as rule_id, 'true' as value,
    json_object(
        'StudyDescription', StudyDescription,
        'PerformedProcedureStepDescription', PerformedProcedureStepDescription,
        'word', study_yes
    ) as evidence
from evidence.contrast
where
    study_yes is not null and coalesce(study_no, study_mixed) is null
    and Modality = 'CT'
union all by name
select
    SeriesInstanceUID, 'CON-STUDY-ONE-T1' as rule_id, 'true' as value,
    json_object(
        'StudyDescription', StudyDescription,
        'PerformedProcedureStepDescription', PerformedProcedureStepDescription,
        'word', study_yes
    ) as evidence
from evidence.contrast
where
    study_yes is not null and coalesce(study_no, study_mixed) is null
    and Modality = 'MR' and scout is null
    and t1 is not null and n_t1 = 1
union all by name
select
    SeriesInstanceUID, 'CON-STUDY-MR' as rule_id, null as value,
    json_object(
        'StudyDescription', StudyDescription,
        'PerformedProcedureStepDescription', PerformedProcedureStepDescription,
        'word', study_yes
    ) as evidence
from evidence.contrast
where
    study_yes is not null and coalesce(study_no, study_mixed) is null
    and Modality = 'MR'
union all by name
select
    SeriesInstanceUID, 'CON-CLASH' as rule_id, null as value,
    json_object(
        'SeriesDescription', SeriesDescription,
        'words', [series_no, series_yes]
    ) as evidence
from evidence.contrast
where
    series_no is not null and series_yes is not null and series_mixed is null
    and series_span is null
union all by name
select
    SeriesInstanceUID, 'CON-UNKNOWN' as rule_id, null as value,
    json_object('ContrastBolusAgent', ContrastBolusAgent, 'state', agent) as evidence
from evidence.contrast
where agent in ('unknown', 'varies')
union all by name
select
    SeriesInstanceUID, 'CON-ASSUMED' as rule_id, 'false' as value,
    json_object('state', agent) as evidence
from evidence.contrast
where
    agent in ('absent', 'empty')
    and coalesce(
        series_mixed, series_span, series_no, series_yes, first_phase, series_implied
    ) is null
    and coalesce(protocol_mixed, protocol_no, protocol_yes) is null
    and coalesce(study_mixed, study_no, study_yes) is null
union all by name
select
    SeriesInstanceUID, 'CON-PAPER-YES' as rule_id, 'true' as value,
    json_object('ContrastBolusAgent', ContrastBolusAgent) as evidence
from evidence.contrast
where agent in ('given', 'enteral', 'unknown')
union all by name
select
    SeriesInstanceUID, 'CON-PAPER-NO' as rule_id, 'false' as value,
    json_object('ContrastBolusAgent', ContrastBolusAgent, 'state', agent) as evidence
from evidence.contrast
where agent in ('absent', 'empty', 'none');
