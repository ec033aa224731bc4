-- grain: one row per distinct series description or protocol name
-- meaning: for each lexicon (pulse sequence, localizers, maps, time) the first word that the text
-- holds; NULL = none
-- source: lexicon/sequence.csv
create view text.sequence as
with texts as (
    select SeriesDescription as text from stage.series
    union
    select ProtocolName from stage.series
),

normal as (
    select
        text,
        drop_sequence_noise(normalise_sequence(text)) as normalised,
    from texts
    where text is not null
),

found as (
    select
        text,
        find_scout(normalised) as scout,
        find_mr_scout(normalised) as mr_scout,
        find_calibration(normalised) as calibration,
        find_adc_map(normalised) as adc_map,
        find_perfusion_map(normalised) as perfusion_map,
        find_mr_derived(normalised) as mr_derived,
        find_derived_image(normalised) as derived_image,
        find_projection(normalised) as projection,
        find_diffusion(normalised) as diffusion,
        find_functional(normalised) as functional,
        find_perfusion(normalised) as perfusion,
        find_dynamic(normalised) as dynamic,
        find_dynamic_breast(normalised) as dynamic_breast,
        find_cine(normalised) as cine,
        find_ct_repeated(normalised) as ct_repeated,
        find_bolus_start(normalised) as bolus_start,
        find_angiography(normalised) as angiography,
        find_spectroscopy(normalised) as spectroscopy,
        find_elastography(normalised) as elastography,
        find_susceptibility(normalised) as susceptibility,
        find_stir(normalised) as stir,
        find_tirm(normalised) as tirm,
        find_flair(normalised) as flair,
        find_plain_ir(normalised) as plain_ir,
        find_double_inversion(normalised) as double_inversion,
        find_gradient(normalised) as gradient,
        find_dixon(normalised) as dixon,
        find_spin_echo(normalised) as spin_echo,
        find_turbo_spin_echo(normalised) as turbo_spin_echo,
        find_single_shot(normalised) as single_shot,
        find_echo_planar(normalised) as echo_planar,
        find_weight_t1(normalised) as weight_t1,
        find_weight_t2(normalised) as weight_t2,
        find_proton_density(normalised) as proton_density,
        find_three_d(normalised) as three_d,
        find_breath_hold(normalised) as breath_hold,
        find_single_phase(normalised) as single_phase,
        find_phase_pass(normalised) as phase_pass,
        find_phase_number(normalised) as phase_number,
        find_reformat(normalised) as reformat,
        find_cone_beam(normalised) as cone_beam,
        trim(
            regexp_replace(
                drop_phase_number(drop_single_phase(drop_dynamic(normalised))), '[0-9\s]+', ' ', 'g'
            )
        ) as stem,
    from normal
),

first_found as (
    select
        *,
        coalesce(*columns(sequence_evidence())) as first_evidence,
    from found
)

select
    * exclude (first_evidence),
    first_evidence is not null as is_evidence,
from first_found;
comment on view text.sequence is 'words on pulse sequence, localizers, maps and time in a text';
comment on column text.sequence.text is 'the text as the header has it';
comment on column text.sequence.stem is 'the text without numbers and phases';
comment on column text.sequence.is_evidence is
'holds a word of a lexicon that is evidence of a sequence (lexicons.csv)';
