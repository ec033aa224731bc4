-- grain: one row per series and label that is unknown by the headers and that the network gives
-- meaning: the network's label, with its probability; the most probable first
-- source: series and predictions, of several networks the one that was asked last
create view filled_labels as
with predicted as (
    select *
    from predictions
    where reason is null
    qualify row_number() over (partition by SeriesInstanceUID order by predicted_at desc) = 1
),

lacking as (
    select
        s.SeriesInstanceUID,
        s.excluded_by,
        p.checkpoint,
        unnest([
            {
                'label': 'sequence',
                'value': p.sequence,
                'probability': p.sequence_probability,
                'is_known': s.sequence is not null
            },
            {
                'label': 'view',
                'value': p."view",
                'probability': p.view_probability,
                'is_known': s."view" is not null
            },
            {
                'label': 'contrast',
                'value': p.contrast::varchar,
                'probability': p.contrast_probability,
                'is_known': s.contrast is not null
            },
            {
                'label': 'coverage',
                'value': array_to_string(list_sort(p.coverage), '|'),
                'probability': p.coverage_probability,
                'is_known': s.coverage is not null
            }
        ], recursive := true),
    from predicted as p
    inner join series as s on p.SeriesInstanceUID = s.SeriesInstanceUID
)

select
    SeriesInstanceUID,
    label,
    value,
    probability,
    excluded_by,
    checkpoint,
from lacking
where not is_known
order by probability desc, SeriesInstanceUID asc, label asc;
comment on view filled_labels is
'labels unknown by the headers, as the network gives them; only classes that it knows';
comment on column filled_labels.SeriesInstanceUID is 'series';
comment on column filled_labels.label is 'sequence, view, contrast or coverage';
comment on column filled_labels.value is 'coverage: regions joined by |, empty for none';
comment on column filled_labels.probability is
'of value by the network; coverage: of all regions together, as a product';
comment on column filled_labels.excluded_by is 'as in series: whether the label would be used';
comment on column filled_labels.checkpoint is 'the network: the one that was asked last';
