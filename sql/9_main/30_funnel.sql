-- grain: one row per attribution order and step; step 0 is what was analysed
-- meaning: the number of series that each reason excludes: as the first reason (first_hit), and
-- whatever other reasons there are (marginal)
-- source: paper 3; the included series are the same in both orders
create view funnel as
with attribution as (
    select unnest(['default', 'paper']) as attribution
),

reason as (
    select
        reason,
        min(rank) as rank,
        min(paper_rank) as paper_rank,
        min(title) as meaning,
    from rule.exclusions
    group by reason
),

step as (
    select
        a.attribution,
        r.reason,
        r.meaning,
        if(a.attribution = 'paper', r.paper_rank, r.rank) as step,
    from attribution as a
    cross join reason as r

    union all
    select
        attribution,
        'analysed',
        'all series',
        0,
    from attribution
),

counted as (
    select
        excluded_by,
        excluded_by_in_paper_order,
        exclusions,
        is_salvageable,
        PatientID,
        count(*) as n,
    from series
    group by all
),

located as (
    select
        a.attribution,
        p.step as excluded_at,
        c.*,
    from attribution as a
    cross join counted as c
    left join step as p
        on
            a.attribution = p.attribution
            and if(a.attribution = 'paper', c.excluded_by_in_paper_order, c.excluded_by) = p.reason
)

select
    t.attribution,
    t.step,
    t.reason,
    t.meaning,
    coalesce(sum(c.n) filter (c.excluded_at = t.step), 0)::bigint as first_hit,
    coalesce(sum(c.n) filter (list_contains(c.exclusions, t.reason)), 0)::bigint as marginal,
    coalesce(sum(c.n) filter (not coalesce(c.excluded_at <= t.step, false)), 0)::bigint
        as remaining,
    count(distinct c.PatientID) filter (not coalesce(c.excluded_at <= t.step, false))
        as remaining_patients,
    coalesce(sum(c.n) filter (c.excluded_at = t.step and c.is_salvageable), 0)::bigint
        as salvageable,
from step as t
left join located as c on t.attribution = c.attribution
group by all
order by t.attribution, t.step;
comment on view funnel is 'what each exclusion takes; first_hit of all steps and remaining add up';
comment on column funnel.attribution is 'default: time before sequence; paper: as the paper prints';
comment on column funnel.first_hit is 'series that this reason takes first';
comment on column funnel.marginal is 'series that this reason fires on, whatever else does';
comment on column funnel.remaining is 'series left after this step';
comment on column funnel.salvageable is 'of first_hit: what a split or resampling would rescue';
comment on column funnel.step is 'place in the order; 0 is before any';
comment on column funnel.reason is 'as in series.excluded_by';
comment on column funnel.meaning is 'the reason in words';
comment on column funnel.remaining_patients is 'patients of the series left';
