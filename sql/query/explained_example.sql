-- grain: one row, or none where the lake has no T2-FLAIR
-- meaning: a series for a demonstration of `explain`: excluded if there is one, and with as many
-- outranked rules as possible
select SeriesInstanceUID
from series
where sequence = 'T2-FLAIR'
order by excluded_by is null, len(sequence_losers) desc nulls last, SeriesInstanceUID
limit 1;
