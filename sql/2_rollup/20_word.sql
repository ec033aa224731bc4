-- grain: one row per series and distinct combination of words
-- meaning: rollup.words with its lists as columns, image_type as the file has it; n: combinations
-- in the series
-- source: rollup.words
create view rollup.word as
select
    w.* exclude (lists),
    unnest(w.lists),
    array_to_string(w.lists['ImageType'], '\') as image_type,
    count(*) over (partition by w.SeriesInstanceUID) as n,
from rollup.words as w;
