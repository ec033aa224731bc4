-- grain: one row per distinct text of a description, a protocol, an agent or a coded agent
-- meaning: for each lexicon of contrast the first word that the text holds; NULL = none
-- source: lexicon/contrast.csv; words that deny an agent are taken out before words that affirm one
-- are looked for
create view text.contrast as
with texts as (
    select SeriesDescription as text from stage.series
    union
    select StudyDescription from stage.series
    union
    select ProtocolName from stage.series
    union
    select PerformedProcedureStepDescription from stage.series
    union
    select ContrastBolusAgent from stage.series
    union
    select ContrastBolusRoute from stage.series
    union
    select coalesce(nullif(code.CodeMeaning, ''), code.CodeValue)
    from (select unnest(ContrastBolusAgentSequence) as code from stage.series) as codes
    union
    select code.CodeMeaning
    from (
        select unnest(ContrastBolusAdministrationRouteSequence) as code
        from stage.series
    ) as codes
    union
    select unnest(ContrastBolusIngredient) from stage.series
),

normal as (
    select
        text,
        normalise_contrast(text) as normalised,
        drop_contrast_noise(normalise_contrast(text)) as clean
    from texts
    where text is not null
),

denied as (
    select
        text,
        normalised,
        clean,
        drop_contrast_before(drop_contrast_no(clean)) as rest
    from normal
)

select
    text,
    trim(normalised) = '' as is_empty,
    find_contrast_both(clean) as mixed,
    find_contrast_span(clean) as span,
    find_contrast_first(clean) as first_phase,
    find_contrast_no(clean) as no_word,
    find_contrast_before(drop_contrast_no(clean)) as before,
    find_contrast_yes(rest) as yes_word,
    find_contrast_after(rest) as after,
    find_contrast_with(rest) as with_word,
    find_contrast_ce(rest) as ce,
    find_contrast_ct(rest) as ct,
    find_contrast_bolus(rest) as bolus,
    find_contrast_mr(rest) as mr,
    find_contrast_mr_after(rest) as mr_after,
    find_contrast_phases(rest) as phases,
    find_contrast_scout(normalised) as scout,
    find_contrast_procedure(normalised) as procedure,
    find_contrast_t1(normalised) as t1,
    find_contrast_asl(normalised) as asl,
    find_agent_none(normalised) as agent_none,
    find_agent_unknown(normalised) as agent_unknown,
    find_agent_enteral(normalised) as enteral,
    find_agent_vascular(drop_contrast_no(normalised)) as vascular
from denied;
comment on view text.contrast is 'words on contrast in a text';
comment on column text.contrast.text is 'the text as the header has it';
comment on column text.contrast.is_empty is 'nothing is left of the text once it is normalised';
comment on column text.contrast.mixed is 'without and with agent';
comment on column text.contrast.first_phase is 'first phase of a dynamic series';
comment on column text.contrast.no_word is 'no agent';
comment on column text.contrast.yes_word is 'an agent was given';
comment on column text.contrast.with_word is 'the letter W for with';
