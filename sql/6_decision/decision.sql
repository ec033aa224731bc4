-- grain: one row per series and label
-- meaning: which rule decided, what it said, what the other rules said
-- conflict: rules of one contest contradict each other; rules of other contests only lose
-- source: hit.*; lowest rank wins; equal rank with different values is no answer
create view decision.decision as
with hits as (
    select * from hit.override
    union all by name
    select * from hit.sequence
    union all by name
    select * from hit.view
    union all by name
    select * from hit.contrast
    union all by name
    select * from hit.coverage
    union all by name
    select * from hit.time_series
),

ranked as (
    select
        h.SeriesInstanceUID,
        h.rule_id,
        h.value,
        h.evidence,
        r.label,
        r.rank,
        r.tier,
        r.contest,
        min(r.rank) over (partition by h.SeriesInstanceUID, r.label) as best_rank
    from hits as h
    inner join rule.rules as r on h.rule_id = r.rule_id
    inner join rule.run as run on list_contains(string_split(r.modes, '|'), run.mode)
),

winners as (
    select
        SeriesInstanceUID,
        label,
        min(rule_id) as rule_id,
        arg_min(tier, rule_id) as tier,
        arg_min(contest, rule_id) as contest,
        arg_min_null(evidence, rule_id) as evidence,
        arg_min_null(value, rule_id) as value,
        count(distinct coalesce(value, '?')) > 1 as is_tie
    from ranked
    where rank = best_rank
    group by all
),

losers as (
    select
        k.SeriesInstanceUID,
        k.label,
        list(
            { 'rule': k.rule_id, 'value': k.value, 'evidence': k.evidence }
            order by k.rank, k.rule_id
        ) as losers,
        coalesce(bool_or(k.contest = w.contest and k.value <> w.value), false) as is_contested
    from ranked as k
    inner join winners as w
        on
            k.SeriesInstanceUID = w.SeriesInstanceUID
            and k.label = w.label
            and k.rule_id <> w.rule_id
    group by all
)

select
    w.SeriesInstanceUID,
    w.label,
    w.rule_id,
    w.tier,
    w.evidence,
    l.losers,
    if(w.is_tie, null, w.value) as value,
    w.is_tie
    or coalesce(l.is_contested, false)
    or coalesce(starts_with(w.contest, 'always'), false) as conflict
from winners as w
left join losers as l on w.SeriesInstanceUID = l.SeriesInstanceUID and w.label = l.label;
