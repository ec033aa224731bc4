-- grain: one row per series whose first reason is not one of its reasons
-- meaning: must be empty: a series has a first reason in both orders if it has any, else in none
select SeriesInstanceUID
from labelled.series
where
    (excluded_by is null) <> (len(exclusions) = 0)
    or (excluded_by is null) <> (excluded_by_in_paper_order is null)
    or not coalesce(list_contains(exclusions, excluded_by), true);
