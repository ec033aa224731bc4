-- grain: one row per distinct series description
-- meaning: the planes that it names, and whether it is a placeholder for a description
-- source: lexicon/view.csv, lexicon/description.csv
create view text.description as
with texts as (
    select distinct SeriesDescription as text
    from stage.series
    where SeriesDescription is not null
),

normal as (
    select
        text,
        normalise_view(text) as normalised,
    from texts
)

select
    text,
    find_axial(normalised) as axial,
    find_coronal(normalised) as coronal,
    find_sagittal(normalised) as sagittal,
    trim(text, ' ' || chr(0)) = '' or find_placeholder(normalise_description(text)) is not null
        as is_placeholder,
from normal;
comment on view text.description is 'planes and placeholders in a series description';
comment on column text.description.text is 'the text as the header has it';
comment on column text.description.is_placeholder is 'stands for no description';
