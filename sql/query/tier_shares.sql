-- grain: one row per label
-- meaning: series with the label, conflicts, and the share of each tier among the deciding rules
with tier as (
    select
        label,
        tier,
        sum(decided) as decided,
        sum(in_conflict) as in_conflict,
        round(100 * sum(decided) / sum(sum(decided)) over (partition by label))::int as share,
    from rule_use
    where decided > 0
    group by label, tier
)

select
    label,
    sum(decided) as labelled,
    sum(in_conflict) as conflicts,
    string_agg(tier || ' ' || share || '%', ', ' order by share desc) as decided_by,
from tier
group by label
order by label;
