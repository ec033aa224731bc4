-- grain: one row per distinct name of a pulse sequence, as vendors write it
-- meaning: the family of pulse sequences that the name stands for: EP, IR, GR, SE
-- source: lexicon/sequence.csv, name_*; dcm2niix, ezBIDS
create view text.sequence_name as
with texts as (
    select
        coalesce(
            SequenceName,
            PulseSequenceName,
            GEMS_ACQU_01_xx9E,
            GEMS_ACQU_01_xx9C,
            Philips_Imaging_DD_001_xx20
        ) as text,
    from stage.series
),

normal as (
    select distinct
        text,
        normalise_sequence(text) as normalised,
    from texts
    where text is not null
)

select
    text,
    find_name_diffusion(normalised) as diffusion,
    find_name_flash_scout(normalised) as flash_scout,
    case
        when find_name_ep(normalised) is not null then 'EP'
        when find_name_ir(normalised) is not null then 'IR'
        when find_name_gr(normalised) is not null then 'GR'
        when find_name_se(normalised) is not null then 'SE'
    end as family,
from normal;
comment on view text.sequence_name is 'pulse sequence by the vendor''s sequence name';
comment on column text.sequence_name.text is 'the name as the header has it';
comment on column text.sequence_name.family is 'EP, IR, GR or SE';
