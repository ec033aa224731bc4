-- grain: one row per distinct set of ImageType values
-- meaning: for each lexicon of image types the first word among the values that all frames share,
-- from the third value on; NULL = none
-- source: DICOM PS3.3 C.7.6.1.1.2, C.8.3.1.1.1; lexicon/sequence.csv, type_*
create view text.image_type as
with texts as (
    select distinct join_types(image_types, ImageType) as text
    from stage.series
),

parted as (
    select
        text,
        list_transform(string_split(upper(text), '|'), lambda t: string_split(t, '\')[3:]) as types,
    from texts
    where text is not null
),

shared as (
    select
        text,
        ' ' || array_to_string(
            list_filter(
                types[1],
                lambda v: list_bool_and(list_transform(types, lambda t: list_contains(t, v)))
            ),
            ' '
        ) || ' ' as normalised,
    from parted
)

select
    text,
    find_type_scout(normalised) as scout,
    find_type_adc(normalised) as adc,
    find_type_trace(normalised) as trace,
    find_type_derived(normalised) as derived_image,
from shared;
comment on view text.image_type is 'localizer, map or picture by the values of ImageType';
comment on column text.image_type.text is 'the values, joined as by join_types';
