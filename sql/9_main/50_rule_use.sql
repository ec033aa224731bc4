-- grain: one row per rule
-- meaning: the number of series that the rule decided, in how many of them other evidence
-- contradicts it, and in how many series it was outranked
-- source: series
create view rule_use as
with decided as (
    select
        'sequence' as label,
        sequence_rule as rule_id,
        sequence_conflict as conflict,
        sequence_losers as losers,
    from series

    union all
    select 'view', view_rule, view_conflict, view_losers
    from series

    union all
    select 'contrast', contrast_rule, contrast_conflict, contrast_losers
    from series

    union all
    select 'coverage', coverage_rule, coverage_conflict, coverage_losers
    from series

    union all
    select 'time_series', time_series_rule, time_series_conflict, time_series_losers
    from series
),

won as (
    select label, rule_id, count(*) as decided, count(*) filter (conflict) as in_conflict
    from decided
    where rule_id is not null
    group by all
),

lost as (
    select label, l.rule as rule_id, count(*) as lost
    from (select label, unnest(losers) as l from decided) as outranked
    group by all
)

select
    r.label,
    r.rule_id,
    r.rank,
    r.tier,
    coalesce(w.decided, 0) as decided,
    coalesce(w.in_conflict, 0) as in_conflict,
    coalesce(l.lost, 0) as lost,
    r.meaning,
from rule.rules as r
left join won as w on r.rule_id = w.rule_id
left join lost as l on r.rule_id = l.rule_id
order by r.label, r.rank, r.rule_id;
comment on view rule_use is 'what each rule decided in the lake';
comment on column rule_use.label is 'which label';
comment on column rule_use.rule_id is 'the rule';
comment on column rule_use.rank is 'the lowest wins';
comment on column rule_use.tier is 'how strong its evidence is';
comment on column rule_use.decided is 'series that it decided';
comment on column rule_use.in_conflict is 'of these, in conflict';
comment on column rule_use.lost is 'series where it fired and was outranked';
comment on column rule_use.meaning is 'the rule in words';
