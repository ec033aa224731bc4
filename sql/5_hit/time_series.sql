-- grain: one row per series and time-series rule that fired
-- meaning: 'true': the series shows one place at several times; 'false': it does not
-- conflict: none; a word or a repeat outranks the assumption of a single acquisition
-- source: paper 2.1.1
create view hit.time_series as
with images as (
    select
        e.*,
        s.repeat_kind,
        s.repeats_min,
        s.repeats_max,
        s.NumberOfTemporalPositions,
        s.CardiacNumberOfImages,
        s.mosaic,
        s.n_instances,
        b.n_equal,
        b.stem as equal_stem,
        coalesce(e.dynamic, e.perfusion, e.functional, e.cine, e.dynamic_breast) as moving,
        coalesce(
            e.scout, e.mr_scout, e.projection, e.adc_map, e.perfusion_map, e.mr_derived
        ) is not null
        or coalesce(e.type_adc, e.type_derived) is not null and e.derived_image is null
            as is_still,
    from evidence.sequence as e
    inner join stage.series as s on e.SeriesInstanceUID = s.SeriesInstanceUID
    left join evidence.sibling as b on e.SeriesInstanceUID = b.SeriesInstanceUID
    where e.is_ct or e.is_mr
)

select
    SeriesInstanceUID, 'TIM-REPEAT' as rule_id, 'true' as value,
    json_object('repeat_kind', repeat_kind, 'repeats', repeats_max) as evidence
from images
where
    repeat_kind in ('temporal', 'cine')
    or (
        repeat_kind = 'unknown_repeat' and repeats_min = repeats_max
        and repeats_max >= min_time_points()
    )
union all by name
select
    SeriesInstanceUID, 'TIM-POSITIONS' as rule_id, 'true' as value,
    json_object(
        'NumberOfTemporalPositions', NumberOfTemporalPositions,
        'CardiacNumberOfImages', CardiacNumberOfImages, 'repeats', repeats_max
    ) as evidence
from images
where
    greatest(NumberOfTemporalPositions, CardiacNumberOfImages) > 1 and repeats_min > 1
    and coalesce(repeat_kind, '') not in ('diffusion', 'multi_echo', 'mapping', 'component')
union all by name
select
    SeriesInstanceUID, 'TIM-MOSAIC' as rule_id, 'true' as value,
    json_object('ImageType', ImageType, 'n_instances', n_instances) as evidence
from images
where
    is_mr and mosaic and n_instances > 1 and family = 'EP'
    and coalesce(diffusion, name_diffusion) is null and coalesce(largest_b, 0) = 0
union all by name
select
    SeriesInstanceUID, 'TIM-WORD' as rule_id, 'true' as value,
    word_evidence(keyword, text, moving) as evidence
from images
where is_mr and moving is not null and not is_still and calibration is null
union all by name
select
    SeriesInstanceUID, 'TIM-PASS-WORD' as rule_id, 'true' as value,
    word_evidence(keyword, text, phase_pass) as evidence
from images
where is_mr and phase_pass is not null and not is_still and derived_image is null
union all by name
select
    SeriesInstanceUID, 'TIM-CT-WORD' as rule_id, 'true' as value,
    word_evidence(keyword, text, ct_repeated) as evidence
from images
where is_ct and ct_repeated is not null and not is_still
union all by name
select
    SeriesInstanceUID, 'TIM-CT-BOLUS' as rule_id, 'true' as value,
    json_object(keyword, text, 'word', bolus_start, 'slice_count', slice_count) as evidence
from images
where is_ct and bolus_start is not null and slice_count <= bolus_locations()
union all by name
select
    SeriesInstanceUID, 'TIM-SIBLINGS' as rule_id, 'true' as value,
    json_object('n_equal', n_equal, 'name', equal_stem) as evidence
from images
where is_mr and n_equal >= siblings_mr()
union all by name
select
    SeriesInstanceUID,
    'TIM-SIBLINGS-NAMED' as rule_id,
    'true' as value,
    json_object('n_equal', n_equal, keyword, text, 'word', coalesce(moving, phase_number))
        as evidence
from images
where is_mr and n_equal >= siblings_named() and coalesce(moving, phase_number) is not null
union all by name
select
    SeriesInstanceUID, 'TIM-SIBLINGS-CT' as rule_id, 'true' as value,
    json_object('n_equal', n_equal, 'name', equal_stem) as evidence
from images
where is_ct and n_equal >= siblings_ct()
union all by name
select
    SeriesInstanceUID, 'TIM-SINGLE' as rule_id, 'false' as value,
    json_object(keyword, text) as evidence
from images
where
    is_ct or is_evidence or coalesce(single_phase, three_d, family, numbers_family) is not null
union all by name
select
    i.SeriesInstanceUID, 'TIM-UNTOLD' as rule_id, 'false' as value,
    json_object(i.keyword, i.text) as evidence
from images as i
inner join stage.series as s on i.SeriesInstanceUID = s.SeriesInstanceUID
inner join text.description as t on s.SeriesDescription = t.text
where not t.is_placeholder;
