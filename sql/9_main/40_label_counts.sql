-- grain: one row per division into parts, label and value
-- meaning: the number of series of the training set in each part, as Table A3 of the paper
-- source: paper Table A3
create view label_counts as
with part as (
    select 'hash' as division, split as part, t.* exclude (split, paper_split)
    from training_set as t

    union all
    select 'paper', paper_split, t.* exclude (split, paper_split)
    from training_set as t
    where paper_split is not null
),

labelled as (
    select division, part, 'all' as label, 'series' as value
    from part

    union all
    select division, part, 'sequence', sequence
    from part

    union all
    select division, part, 'view', "view"
    from part

    union all
    select division, part, 'contrast', if(contrast, 'Contrast', 'No Contrast')
    from part
    where contrast is not null

    union all
    select division, part, 'contrast', 'cannot be told'
    from part
    where contrast is null

    union all
    select division, part, 'coverage', unnest(coverage)
    from part

    union all
    select division, part, 'coverage', if(coverage is null, 'cannot be told', 'none of them')
    from part
    where coalesce(len(coverage), 0) = 0
),

division as (
    select unnest(['hash', 'paper']) as division
),

known as (
    select 'all' as label, 'series' as value, -1 as place

    union all
    select head, value, index
    from rule.classes
    where head <> 'spacing'

    union all
    select
        unnest(['contrast', 'coverage', 'coverage']),
        unnest(['cannot be told', 'cannot be told', 'none of them']),
        null, -- after the classes
)

select
    d.division,
    k.label,
    k.value,
    count(*) filter (t.part = 'train') as train,
    count(*) filter (t.part = 'validation') as validation,
    count(*) filter (t.part = 'test') as test,
    count(t.part) as total,
from known as k
cross join division as d
left join labelled as t on k.label = t.label and k.value = t.value and d.division = t.division
group by d.division, k.label, k.value, k.place
order by
    d.division,
    list_position(['all', 'sequence', 'view', 'contrast', 'coverage'], k.label),
    k.place nulls last,
    k.value;
comment on view label_counts is 'the training set by label and part, as the paper''s Table A3';
comment on column label_counts.division is
'hash: training_set.split; paper: training_set.paper_split';
comment on column label_counts.label is 'which label';
comment on column label_counts.value is 'its value';
comment on column label_counts.train is 'series in the part';
comment on column label_counts.validation is 'series in the part';
comment on column label_counts.test is 'series in the part';
comment on column label_counts.total is 'series in all parts';
