-- grain: one row per series and label
-- meaning: the rule that decided, its value and evidence, and the rules that lost
-- conflict: rules of one contest contradict each other; rules of other contests only lose
-- source: hit.*; lowest rank wins; equal rank with different values is no answer
create view decision.decision as
with active as (
    select
        r.rule_id,
        r.label,
        r.rank,
        r.tier,
        r.contest,
        row_number() over (order by r.rank, r.rule_id) as place,
    from rule.rules as r
    inner join rule.run as run on list_contains(string_split(r.modes, '|'), run.mode)
),

hits as (
    select * from hit.override
    union all by name
    select * from hit.sequence
    union all by name
    select * from hit.sequence_mr
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
        a.label,
        a.rank,
        a.contest,
        a.place,
    from hits as h
    inner join active as a on h.rule_id = a.rule_id
),

winner as (
    select
        SeriesInstanceUID,
        label,
        min(place) as place,
        arg_min_null(value, place) as value,
        arg_min_null(evidence, place) as evidence,
    from ranked
    group by all
),

loser as (
    select
        p.SeriesInstanceUID,
        p.label,
        list_sort(list({
            'rank': p.rank,
            'rule': p.rule_id,
            'value': p.value,
            'evidence': p.evidence
        })) as losers,
        bool_or(p.rank = a.rank and p.value is distinct from w.value) as is_tie,
        bool_or(p.contest = a.contest and p.value <> w.value) as is_contested,
    from ranked as p
    inner join winner as w
        on
            p.SeriesInstanceUID = w.SeriesInstanceUID
            and p.label = w.label
            and (p.place <> w.place or p.value is distinct from w.value)
    inner join active as a on w.place = a.place
    group by all
)

select
    w.SeriesInstanceUID,
    w.label,
    a.rule_id,
    a.tier,
    w.evidence,
    l.losers,
    if(coalesce(l.is_tie, false), null, w.value) as value,
    coalesce(l.is_tie, false)
    or coalesce(l.is_contested, false)
    or coalesce(starts_with(a.contest, 'always'), false) as conflict,
from winner as w
inner join active as a on w.place = a.place
left join loser as l on w.SeriesInstanceUID = l.SeriesInstanceUID and w.label = l.label;
