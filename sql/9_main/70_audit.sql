-- grain: one row per series and label that both the headers and the network give
-- meaning: how improbable the network finds the header's label; the most improbable first
-- source: series against predictions, of several networks the one that was asked last
create view audit as
with predicted as (
    select *
    from predictions
    where reason is null
    qualify row_number() over (partition by SeriesInstanceUID order by predicted_at desc) = 1
),

seen as (
    select
        s.*,
        p.checkpoint,
        p.sequence as p_sequence,
        p.sequence_probabilities,
        p."view" as p_view,
        p.view_probabilities,
        p.contrast as p_contrast,
        p.contrast_probabilities,
        p.coverage as p_coverage,
        p.coverage_probabilities,
        p.effective_spacing_mm as p_spacing_mm,
        s.slice_spacing_mm * greatest(s.slice_count, p.slices) / p.slices as spacing_mm,
    from predicted as p
    inner join series as s on p.SeriesInstanceUID = s.SeriesInstanceUID
),

with_ratio as (
    -- of the ratio, for large spacings err by more mm; a network may give a negative spacing
    select *, ln(greatest(p_spacing_mm, min_spacing_mm()) / spacing_mm) as ratio
    from seen
    where spacing_mm > 0
),

centred as (
    select
        *,
        abs(ratio - median(ratio) over (partition by checkpoint)) as error,
    from with_ratio
),

compared as (
    select
        SeriesInstanceUID,
        checkpoint,
        'sequence' as label,
        sequence as header_value,
        sequence_rule as rule_id,
        sequence_tier as tier,
        sequence_conflict as conflict,
        p_sequence as network_value,
        sequence_probabilities[sequence]::double as probability,
    from seen

    union all
    select
        SeriesInstanceUID,
        checkpoint,
        'view',
        "view",
        view_rule,
        view_tier,
        view_conflict,
        p_view,
        view_probabilities["view"],
    from seen

    union all
    select
        SeriesInstanceUID,
        checkpoint,
        'contrast',
        contrast::varchar,
        contrast_rule,
        contrast_tier,
        contrast_conflict,
        p_contrast::varchar,
        contrast_probabilities[if(contrast, 'Contrast', 'No Contrast')],
    from seen
    where contrast is not null

    union all
    select
        SeriesInstanceUID,
        checkpoint,
        'coverage',
        array_to_string(list_sort(coverage), '|'),
        coverage_rule,
        coverage_tier,
        coverage_conflict,
        array_to_string(list_sort(p_coverage), '|'),
        -- of the region that fits worst: nine small doubts are no great one
        list_min(
            list_transform(
                map_entries(coverage_probabilities),
                lambda e: if(list_contains(coverage, e.key), e.value, 1 - e.value)
            )
        ),
    from seen
    where coverage is not null

    union all
    select
        SeriesInstanceUID,
        checkpoint,
        'spacing',
        format('{:.2f}', spacing_mm),
        null,
        'numeric',
        false,
        format('{:.2f}', p_spacing_mm),
        -- of an error as large: half of all are beyond the median, and they fall off exponentially
        0.5 ** (error / greatest(median(error) over (partition by checkpoint), audit_min_error())),
    from centred
    where error is not null
)

select
    c.SeriesInstanceUID,
    c.label,
    c.header_value,
    c.network_value,
    c.probability,
    -ln(greatest(c.probability, audit_min_probability())) as surprise,
    c.rule_id,
    c.tier,
    c.conflict,
    t.split,
    c.checkpoint,
from compared as c
left join training_set as t on c.SeriesInstanceUID = t.SeriesInstanceUID
where c.probability is not null and coalesce(c.rule_id, '') not like 'SITE-SERIES-%'
order by surprise desc, c.probability asc, c.SeriesInstanceUID asc, c.label asc;
comment on view audit is
'labels by headers against the network; the first rows are likely wrong headers';
comment on column audit.SeriesInstanceUID is 'series';
comment on column audit.label is
'sequence, view, contrast, coverage or spacing; left out: what a person set, classes it never saw';
comment on column audit.header_value is 'as in series; spacing: between resized slices, mm';
comment on column audit.network_value is 'what the network holds most probable';
comment on column audit.probability is
'of header_value by the network; coverage: the least region''s; spacing: of a ratio so far off';
comment on column audit.surprise is '-ln(probability), at most 16';
comment on column audit.rule_id is 'the rule that made header_value; see rule_use';
comment on column audit.tier is 'how strong its evidence is';
comment on column audit.conflict is 'other evidence of the headers contradicts it, too';
comment on column audit.split is
'as in training_set: on train a network may have learnt the wrong label; NULL: excluded series';
comment on column audit.checkpoint is 'the network: the one that was asked last';
