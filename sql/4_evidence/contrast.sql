-- grain: one row per CT or MR series
-- meaning: the words and the agent that are evidence of contrast, before any rule
-- source: paper 2.1.3; DICOM PS3.3 C.7.6.4; text.contrast
create view evidence.contrast as
with studies as (
    select
        s.StudyInstanceUID,
        count(*) filter (where t.t1 is not null and t.scout is null) as n_t1,
        count(*) > 1 and count(distinct s.ProtocolName) = 1 as is_protocol_of_study
    from stage.series as s
    left join text.contrast as t on s.SeriesDescription = t.text
    where s.Modality = 'MR'
    group by all
),

agent_codes as (
    select
        codes.SeriesInstanceUID,
        coalesce(nullif(codes.code.CodeMeaning, ''), codes.code.CodeValue) as meaning
    from (
        select
            SeriesInstanceUID,
            unnest(ContrastBolusAgentSequence) as code
        from stage.series
    ) as codes
    union all
    select
        SeriesInstanceUID,
        unnest(ContrastBolusIngredient) as meaning
    from stage.series
),

route_codes as (
    select
        SeriesInstanceUID,
        unnest(ContrastBolusAdministrationRouteSequence).CodeMeaning as meaning
    from stage.series
    union all
    select
        SeriesInstanceUID,
        ContrastBolusRoute as meaning
    from stage.series
),

agents as (
    select
        c.SeriesInstanceUID,
        bool_or(t.enteral is not null) as is_coded_enteral,
        bool_or(coalesce(t.enteral, t.agent_none, t.no_word, t.agent_unknown) is null)
            as is_coded_given
    from agent_codes as c
    inner join text.contrast as t on c.meaning = t.text and not t.is_empty
    group by all
),

routes as (
    select
        c.SeriesInstanceUID,
        bool_or(t.enteral is not null) and not bool_or(t.vascular is not null) as is_enteral
    from route_codes as c
    inner join text.contrast as t on c.meaning = t.text and not t.is_empty
    group by all
)

select
    s.SeriesInstanceUID,
    s.Modality,
    s.SeriesDescription,
    s.ProtocolName,
    s.StudyDescription,
    s.PerformedProcedureStepDescription,
    s.ContrastBolusAgent,
    s.ContrastBolusAgentSequence,
    s.ContrastBolusIngredient,
    s.ContrastBolusRoute,
    s.ContrastBolusAdministrationRouteSequence,
    s.ContrastBolusVolume,
    s.ContrastBolusTotalDose,
    s.ContrastBolusStartTime,
    s.ContrastBolusAgentAdministered,
    s.ContrastBolusAgentPhase,
    s.acquisition_end_s,
    s.slice_count,
    series.mixed as series_mixed,
    series.span as series_span,
    series.first_phase,
    series.t1,
    studies.n_t1,
    coalesce(
        series.no_word, if(s.Modality = 'CT' and study.procedure is not null, null, series.before)
    ) as series_no,
    -- In MR W may be the water image of a Dixon; in an intervention POST is after the needle.
    case
        when s.Modality = 'MR' then coalesce(series.yes_word, series.after, series.mr_after)
        when series.scout is not null then series.yes_word
        when study.procedure is not null then coalesce(series.yes_word, series.with_word)
        else
            coalesce(
                series.yes_word, series.after, series.with_word, series.ct, series.bolus
            )
    end as series_yes,
    case
        when s.Modality = 'CT' then series.ce
        when coalesce(series.asl, protocol.asl, s.ArterialSpinLabelingContrast) is null
            then coalesce(series.mr, series.ce)
    end as series_implied,
    coalesce(series.scout, if(list_contains(s.ImageType, 'LOCALIZER'), 'LOCALIZER', null))
        as scout,
    s.Modality = 'CT' and s.slice_count <= max_overview_slices() as is_few,
    coalesce(protocol.mixed, protocol.span, protocol.phases) as protocol_mixed,
    coalesce(protocol.no_word, if(studies.is_protocol_of_study, null, protocol.before))
        as protocol_no,
    case
        when s.Modality = 'CT'
            then
                coalesce(
                    protocol.yes_word, protocol.after, protocol.with_word, protocol.ct, protocol.ce
                )
        when not studies.is_protocol_of_study
            then coalesce(protocol.yes_word, protocol.after, protocol.mr_after, protocol.ce)
    end as protocol_yes,
    coalesce(
        study.mixed, step.mixed, study.span, step.span,
        if(coalesce(study.with_word, step.with_word) is null, study.phases, null)
    ) as study_mixed,
    coalesce(study.no_word, step.no_word) as study_no,
    coalesce(
        study.yes_word, step.yes_word, study.with_word, step.with_word, study.ce, step.ce,
        if(s.Modality = 'CT', coalesce(study.ct, step.ct), null)
    ) as study_yes,
    case
        when list_contains(s.varying_keywords, 'ContrastBolusAgent') then 'varies'
        when list_contains(s.empty_keywords, 'ContrastBolusAgent') then 'empty'
        when s.ContrastBolusAgent is null then 'absent'
        when agent.is_empty then 'empty'
        when coalesce(agent.agent_unknown, agent.mixed) is not null then 'unknown'
        when agent.enteral is not null and agent.vascular is null then 'enteral'
        when agent.agent_none is not null then 'none'
        when coalesce(agent.no_word, agent.before) is not null and agent.yes_word is null
            then 'none'
        when routes.is_enteral then 'enteral'
        else 'given'
    end as agent,
    agents.is_coded_given and not coalesce(routes.is_enteral, false) as is_coded_given,
    agents.is_coded_enteral or (agents.is_coded_given and routes.is_enteral) as is_coded_enteral,
    coalesce(routes.is_enteral, false) as is_route_enteral
from stage.series as s
left join text.contrast as series on s.SeriesDescription = series.text
left join text.contrast as protocol on s.ProtocolName = protocol.text
left join text.contrast as study on s.StudyDescription = study.text
left join text.contrast as step on s.PerformedProcedureStepDescription = step.text
left join text.contrast as agent on s.ContrastBolusAgent = agent.text
left join studies on s.StudyInstanceUID = studies.StudyInstanceUID
left join agents on s.SeriesInstanceUID = agents.SeriesInstanceUID
left join routes on s.SeriesInstanceUID = routes.SeriesInstanceUID
where s.Modality in ('CT', 'MR');
comment on view evidence.contrast is
'words and agent that are evidence of contrast, one row per series';
comment on column evidence.contrast.acquisition_end_s is
'greatest AcquisitionTime, s since midnight';
comment on column evidence.contrast.series_mixed is 'SeriesDescription: without and with agent';
comment on column evidence.contrast.series_span is
'SeriesDescription: scans before and after the agent';
comment on column evidence.contrast.first_phase is
'SeriesDescription: first phase of a dynamic series';
comment on column evidence.contrast.t1 is 'SeriesDescription: T1 weighting';
comment on column evidence.contrast.n_t1 is 'T1-weighted series of the study';
comment on column evidence.contrast.series_no is 'SeriesDescription: no agent, or before it';
comment on column evidence.contrast.series_yes is 'SeriesDescription: an agent was given';
comment on column evidence.contrast.series_implied is
'SeriesDescription: an examination that is usually done with agent';
comment on column evidence.contrast.scout is 'localizer, by SeriesDescription or ImageType';
comment on column evidence.contrast.is_few is
'CT of a few slices: an overview or a monitoring scan';
comment on column evidence.contrast.protocol_mixed is 'ProtocolName: without and with agent';
comment on column evidence.contrast.protocol_no is 'ProtocolName: no agent';
comment on column evidence.contrast.protocol_yes is 'ProtocolName: an agent was given';
comment on column evidence.contrast.study_mixed is
'StudyDescription or performed step: without and with agent';
comment on column evidence.contrast.study_no is 'StudyDescription or performed step: no agent';
comment on column evidence.contrast.study_yes is
'StudyDescription or performed step: an agent was given';
comment on column evidence.contrast.agent is
'ContrastBolusAgent: absent, empty, none, unknown, varies, enteral (not into a vessel), given';
comment on column evidence.contrast.is_coded_given is 'ContrastBolusAgentSequence names an agent';
comment on column evidence.contrast.is_coded_enteral is
'ContrastBolusAgentSequence names an agent outside the vessels';
comment on column evidence.contrast.is_route_enteral is
'every route that is stated lies outside the vessels';
