-- grain: pure functions
-- meaning: shorten(text): the beginning of a long one; fold(text): upper case, no accents,
-- letters without decomposition spelt out
-- source: rules of matching in three scripts; strip_accents leaves L/O with stroke and others
create or replace macro shorten(x) as left(x, max_text_characters()::bigint);

create or replace macro fold(x) as
replace(replace(replace(replace(replace(
    upper(strip_accents(shorten(coalesce(x, '')))), 'Ł', 'L'
), 'Ø', 'O'), 'ẞ', 'SS'), 'Đ', 'D'), 'İ', 'I');
