-- grain: one row per series hit by a rule that sql/rules does not know, or of another label there
-- meaning: must be empty: every rule of 5_hit has a row in sql/rules, with the label it decides
with hits as (
    select 'sequence' as label, SeriesInstanceUID, rule_id
    from hit.sequence
    union all
    select 'sequence', SeriesInstanceUID, rule_id
    from hit.sequence_mr
    union all
    select 'view', SeriesInstanceUID, rule_id
    from hit.view
    union all
    select 'contrast', SeriesInstanceUID, rule_id
    from hit.contrast
    union all
    select 'coverage', SeriesInstanceUID, rule_id
    from hit.coverage
    union all
    select 'time_series', SeriesInstanceUID, rule_id
    from hit.time_series
    union all
    select r.label, h.SeriesInstanceUID, h.rule_id
    from hit.override as h
    left join rule.rules as r on h.rule_id = r.rule_id
)

select h.SeriesInstanceUID
from hits as h
anti join rule.rules as r on h.rule_id = r.rule_id and h.label is not distinct from r.label;
