-- grain: one row per series and stack of rollup.irregular_frame
-- meaning: the gaps between its locations, and the straight line through them
-- source: rollup.slice_location
create view rollup.stack_geometry as
with gap as (
    select
        l.*,
        l.d - lag(l.d) over along as gap,
        regr_slope(l.u, l.d) over whole as u_slope,
        regr_slope(l.v, l.d) over whole as v_slope,
        avg(l.u) over whole as u_mean,
        avg(l.v) over whole as v_mean,
        avg(l.d) over whole as d_mean,
    from rollup.slice_location as l
    window
        along as (partition by l.SeriesInstanceUID, l.stack order by l.d),
        whole as (partition by l.SeriesInstanceUID, l.stack)
)

select
    g.SeriesInstanceUID,
    g.stack,
    sum(g.repeats)::bigint as stack_frames,
    count(*) as slice_count,
    (max(g.d) - min(g.d)) / nullif(count(*) - 1, 0) as slice_spacing_mm,
    min(g.gap) as gap_min_mm,
    max(g.gap) as gap_max_mm,
    list(g.gap order by g.d) filter (where g.gap is not null) as gaps,
    slope_cosine(min(g.u_slope), min(g.v_slope), 1) as shear_cosine,
    round(
        max(
            hypotenuse(
                g.u - g.u_mean - coalesce(g.u_slope, 0) * (g.d - g.d_mean),
                g.v - g.v_mean - coalesce(g.v_slope, 0) * (g.d - g.d_mean)
            )
        ),
        1
    ) as in_plane_shift_mm,
    min(g.repeats) as repeats_min,
    max(g.repeats) as repeats_max,
    arg_min(g.position, g.d) as first_position,
    arg_max(g.position, g.d) as last_position,
    bool_or(g.has_duplicates) as has_duplicates,
    bool_or(g.has_contradiction) as has_contradiction,
    case
        when max(g.repeats) = 1 then null
        when bool_or(g.is_diffusion) filter (where g.repeats > 1) then 'diffusion'
        when bool_or(g.varies_time_point) then 'temporal'
        when bool_and(g.differs_by_physics) filter (where g.repeats > 1)
            then
                case
                    when bool_or(g.varies_echo) then 'multi_echo'
                    when bool_or(g.varies_preparation) then 'mapping'
                    else 'component'
                end
        when bool_and(g.differs_by_stack_id) filter (where g.repeats > 1) then 'multi_stack'
        when
            bool_or(g.is_ct)
            and bool_and(g.differs_by_acquisition) filter (where g.repeats > 1)
            and max(g.repeats) < min_time_points()
            then 'ct_two_acquisitions'
        when bool_or(g.varies_trigger) or bool_or(g.has_cardiac_phases) then 'cine'
        when bool_or(g.varies_time) or bool_or(g.has_time_points) then 'temporal'
        when bool_or(g.varies_echo) then 'multi_echo'
        when bool_or(g.varies_preparation) then 'mapping'
        when bool_or(g.varies_component) then 'component'
        when bool_or(g.varies_acquisition)
            then if(bool_or(g.is_ct), 'ct_two_acquisitions', 'temporal')
        when bool_or(g.varies_stack_id) then 'multi_stack'
        else 'unknown_repeat'
    end as repeat_kind,
from gap as g
group by g.SeriesInstanceUID, g.stack;
