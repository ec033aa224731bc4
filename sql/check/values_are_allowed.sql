-- grain: one row per series, label and value that sql/labels.csv does not list
-- meaning: must be empty: every value of a label is one of sql/labels.csv
with stated as (
    unpivot (
        select
            SeriesInstanceUID,
            columns(label_names())::varchar,
        from labelled.series
    )
    on columns(label_names()) into name label value texts
),

-- A list of values is written as [brain, lung]; the empty list is allowed.
single as (
    select
        SeriesInstanceUID,
        label,
        unnest(string_split(trim(texts, '[]'), ', ')) as value,
    from stated
)

select s.SeriesInstanceUID, s.label, s.value
from single as s
anti join rule.labels as l on s.label = l.label and s.value = l.value
where s.value <> '' or s.label <> 'coverage';
