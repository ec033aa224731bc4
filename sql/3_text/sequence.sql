-- grain: one row per distinct series description or protocol name
-- meaning: the words on pulse sequence, localizers, maps and time that it holds; NULL = none
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
        drop_sequence_noise(normalise_sequence(text)) as words,
    from texts
    where text is not null
),

found as (
    select
        text,
        find_scout(words) as scout,
        find_mr_scout(words) as mr_scout,
        find_calibration(words) as calibration,
        find_adc_map(words) as adc_map,
        find_perfusion_map(words) as perfusion_map,
        find_mr_derived(words) as mr_derived,
        find_derived_image(words) as derived_image,
        find_projection(words) as projection,
        find_diffusion(words) as diffusion,
        find_functional(words) as functional,
        find_perfusion(words) as perfusion,
        find_dynamic(words) as dynamic,
        find_dynamic_breast(words) as dynamic_breast,
        find_cine(words) as cine,
        find_ct_repeated(words) as ct_repeated,
        find_bolus_start(words) as bolus_start,
        find_angiography(words) as angiography,
        find_spectroscopy(words) as spectroscopy,
        find_elastography(words) as elastography,
        find_susceptibility(words) as susceptibility,
        find_stir(words) as stir,
        find_tirm(words) as tirm,
        find_flair(words) as flair,
        find_plain_ir(words) as plain_ir,
        find_double_inversion(words) as double_inversion,
        find_gradient(words) as gradient,
        find_dixon(words) as dixon,
        find_spin_echo(words) as spin_echo,
        find_turbo_spin_echo(words) as turbo_spin_echo,
        find_single_shot(words) as single_shot,
        find_echo_planar(words) as echo_planar,
        find_weight_t1(words) as weight_t1,
        find_weight_t2(words) as weight_t2,
        find_proton_density(words) as proton_density,
        find_three_d(words) as three_d,
        find_breath_hold(words) as breath_hold,
        find_single_phase(words) as single_phase,
        find_phase_pass(words) as phase_pass,
        find_phase_number(words) as phase_number,
        find_reformat(words) as reformat,
        find_cone_beam(words) as cone_beam,
        trim(
            regexp_replace(
                drop_phase_number(drop_single_phase(drop_dynamic(words))), '[0-9\s]+', ' ', 'g'
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
