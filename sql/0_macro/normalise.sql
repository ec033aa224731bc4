-- grain: pure functions
-- meaning: fold(text): upper case, no accents, letters without decomposition spelt out
-- source: rules of matching in three scripts; strip_accents leaves L/O with stroke and others
create or replace macro fold(x) as
replace(replace(replace(replace(replace(
    upper(strip_accents(left(coalesce(x, ''), 1024))), 'Ł', 'L'
), 'Ø', 'O'), 'ẞ', 'SS'), 'Đ', 'D'), 'İ', 'I');
