-- grain: one row per series and distinct combination of its series-level attributes
-- meaning: the attributes that should be the same in all frames of a series (attributes.csv,
-- roll_up agreed) and what the harvest noted of its files; image_type as the file has it;
-- n_rows: frames of the combination; n_combinations: of the series
-- source: frame.live; grouped by a hash, because that is far cheaper than comparing every column:
-- any row of a group may represent it; lists go into one struct, because first() of a list is slow
create view rollup.attribute_combination as
with hashed as (
    select
        f.SeriesInstanceUID,
        f.collection,
        f.object_kind,
        f.TransferSyntaxUID,
        columns(agreed_keywords()),
        struct_pack(
            *columns(agreed_list_keywords()),
            flags := f.flags,
            empty_keywords := f.empty_keywords,
            unparseable_keywords := f.unparseable_keywords,
            multivalued_keywords := f.multivalued_keywords
        ) as lists,
        hash(
            f.collection,
            f.object_kind,
            f.TransferSyntaxUID,
            *columns(agreed_keywords()),
            lists
        ) as combination,
    from frame.live as f
),

combined as (
    select
        h.SeriesInstanceUID,
        count(*) as n_rows,
        first(columns(h.* exclude (SeriesInstanceUID, lists, combination))),
        arg_min(h.lists, 0) as lists,
    from hashed as h
    group by h.SeriesInstanceUID, h.combination
)

select
    c.* exclude (lists),
    unnest(c.lists),
    array_to_string(c.lists['ImageType'], '\') as image_type,
    count(*) over (partition by c.SeriesInstanceUID) as n_combinations,
from combined as c;
