-- grain: one row per exclusion
-- meaning: the funnel in our order, with what the paper's order takes beside it
select
    d.reason,
    d.first_hit,
    p.first_hit as paper_order,
    d.marginal,
    d.remaining,
    d.remaining_patients as patients,
    d.salvageable,
    d.meaning,
from funnel as d
inner join funnel as p on d.reason = p.reason and p.attribution = 'paper'
where d.attribution = 'default'
order by d.step;
