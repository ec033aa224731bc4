-- grain: one row per series and distinct combination of words
-- meaning: rollup.words with its lists as columns; n: combinations in the series
-- source: rollup.words
create view rollup.word as
select
    w.* exclude (lists),
    unnest(w.lists),
    count(*) over (partition by w.SeriesInstanceUID) as n,
from rollup.words as w;
