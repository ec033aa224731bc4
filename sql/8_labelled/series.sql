-- grain: one row per series, included or not
-- meaning: its attributes and geometry, the five labels with rule, tier, evidence and conflict, and
-- the reasons that exclude it
-- conflict: as decided in decision.decision
-- source: stage.series, decision.decision, exclusion.exclusion; what `label` stores in the lake
create view labelled.series as
with reasons as (
    select
        SeriesInstanceUID,
        arg_min(reason, rank) as excluded_by,
        arg_min(reason, paper_rank) as excluded_by_in_paper_order,
        list(distinct reason order by reason) as exclusions,
        list({ 'rule': rule_id, 'reason': reason, 'detail': detail } order by rank, rule_id)
            as exclusion_evidence,
    from exclusion.exclusion
    group by all
)

select
    s.*,
    q.value as sequence,
    q.rule_id as sequence_rule,
    q.tier as sequence_tier,
    q.evidence as sequence_evidence,
    coalesce(q.conflict, false) as sequence_conflict,
    q.losers as sequence_losers,
    v.value as "view",
    v.rule_id as view_rule,
    v.tier as view_tier,
    v.evidence as view_evidence,
    coalesce(v.conflict, false) as view_conflict,
    v.losers as view_losers,
    try_cast(c.value as boolean) as contrast,
    c.rule_id as contrast_rule,
    c.tier as contrast_tier,
    c.evidence as contrast_evidence,
    coalesce(c.conflict, false) as contrast_conflict,
    c.losers as contrast_losers,
    if(r.value = '', []::varchar[], string_split(r.value, '|')) as coverage,
    r.rule_id as coverage_rule,
    r.tier as coverage_tier,
    r.evidence as coverage_evidence,
    coalesce(r.conflict, false) as coverage_conflict,
    r.losers as coverage_losers,
    try_cast(t.value as boolean) as time_series,
    t.rule_id as time_series_rule,
    t.tier as time_series_tier,
    t.evidence as time_series_evidence,
    coalesce(t.conflict, false) as time_series_conflict,
    t.losers as time_series_losers,
    resized_spacing_mm(s.slice_count, s.slice_spacing_mm) as effective_spacing_mm,
    resized_pixel_spacing_mm(s."Rows", s.PixelSpacing[1]) as effective_row_spacing_mm,
    resized_pixel_spacing_mm(s."Columns", s.PixelSpacing[2]) as effective_column_spacing_mm,
    obliquity_deg(s.ImageOrientationPatient) as obliquity_deg,
    is_standard(s.ImageOrientationPatient) as is_standard_view,
    s.PatientPosition not in ('HFS', 'FFS') as is_unusual_position,
    greatest(effective_row_spacing_mm, effective_column_spacing_mm)
    > anisotropic_ratio() * least(effective_row_spacing_mm, effective_column_spacing_mm)
        as is_anisotropic_in_plane,
    coalesce(list_has_any(string_split(r.value, '|'), ['brain', 'upper_head_neck']), false)
    and s.slice_spacing_mm <= face_risk_spacing_mm() as is_face_risk,
    x.excluded_by,
    x.excluded_by_in_paper_order,
    coalesce(x.exclusions, []) as exclusions,
    x.exclusion_evidence,
    list_contains(coalesce(x.exclusions, []), 'geom') as x_geom,
    list_contains(coalesce(x.exclusions, []), 'few') as x_few,
    list_contains(coalesce(x.exclusions, []), 'nodesc') as x_nodesc,
    list_contains(coalesce(x.exclusions, []), 'seq') as x_seq,
    list_contains(coalesce(x.exclusions, []), 'time') as x_time,
    list_contains(coalesce(x.exclusions, []), 'stir') as x_stir,
    list_contains(coalesce(x.exclusions, []), 'spacing') as x_spacing,
    run.mode as label_mode,
    run.rule_set,
    run.labelled_at,
from stage.series as s
cross join rule.run as run
left join reasons as x on s.SeriesInstanceUID = x.SeriesInstanceUID
left join decision.decision as q
    on s.SeriesInstanceUID = q.SeriesInstanceUID and q.label = 'sequence'
left join decision.decision as v
    on s.SeriesInstanceUID = v.SeriesInstanceUID and v.label = 'view'
left join decision.decision as c
    on s.SeriesInstanceUID = c.SeriesInstanceUID and c.label = 'contrast'
left join decision.decision as r
    on s.SeriesInstanceUID = r.SeriesInstanceUID and r.label = 'coverage'
left join decision.decision as t
    on s.SeriesInstanceUID = t.SeriesInstanceUID and t.label = 'time_series';
