-- grain: one row per series
-- meaning: its main stack, the one of most frames, and whether that is a volume
-- conflict: the first reason of `geometry` counts; repeat_kind says what repeats
-- source: DICOM PS3.3 C.7.6.2; order of tests as dicom2nifti, highdicom and dcm2niix do them
create view rollup.geometry as
with main_stack as (
    select
        l.*,
        count(*) over series as n_stacks,
        count(*) filter (where l.slice_count >= min_slices()) over series as n_deep_stacks,
        sum(l.stack_frames) over series as n_kept,
        bool_or(l.has_duplicates) over series as any_duplicates,
        bool_or(l.has_contradiction) over series as any_contradiction,
    from rollup.stack_geometry as l
    window series as (partition by l.SeriesInstanceUID)
    qualify
        row_number() over (
            partition by l.SeriesInstanceUID
            order by l.stack_frames desc, l.slice_count desc, l.stack asc
        ) = 1
),

other as (
    select
        s.SeriesInstanceUID,
        bool_or(s.is_other_orientation) as is_mixed_orientation,
        bool_or(s.is_other_frame_of_reference) as is_mixed_frame_of_reference,
    from rollup.stack_orientation as s
    group by s.SeriesInstanceUID
),

-- Frames of the main stack's reference: they share matrix and pixel spacing within tolerance.
grid as (
    select
        k.SeriesInstanceUID,
        k.stack,
        arg_min(t.ImageOrientationPatient, t.content) as ImageOrientationPatient,
        arg_min(t.PixelSpacing, t.content) as PixelSpacing,
        min(t."Rows") as "Rows",
        min(t."Columns") as "Columns",
    from rollup.distinct_frame as t
    inner join rollup.stack_orientation as k
        on
            t.SeriesInstanceUID = k.SeriesInstanceUID
            and t.orientation_key = k.orientation_key
    where k.rank = k.stack
    group by k.SeriesInstanceUID, k.stack
),

frame_count as (
    select
        t.SeriesInstanceUID,
        count(*) filter (where t.is_image) as n_images,
        count(*) filter (where t.is_image and not t.is_valid) as n_invalid_frames,
    from rollup.irregular_frame as t
    group by t.SeriesInstanceUID
),

-- Objects in parts (PS3.3 C.7.6.16.2.2.4) of which some are not there.
part as (
    select distinct q.SeriesInstanceUID
    from (
        select
            t.SeriesInstanceUID,
            max(t.InConcatenationTotalNumber) as n_due,
            count(distinct t.InConcatenationNumber) as n_found,
        from rollup.irregular_frame as t
        where t.InConcatenationTotalNumber is not null
        group by t.SeriesInstanceUID, t.ConcatenationUID
    ) as q
    where q.n_found < q.n_due
),

fact as (
    select
        s.*,
        1 as n_stacks,
        1 as repeats_min,
        1 as repeats_max,
    from rollup.simple_stack as s
    union all by name
    select
        l.* exclude (stack, has_duplicates, has_contradiction),
        o.is_mixed_orientation,
        o.is_mixed_frame_of_reference,
        g.ImageOrientationPatient,
        g.PixelSpacing,
        g."Rows",
        g."Columns",
    from main_stack as l
    inner join other as o on l.SeriesInstanceUID = o.SeriesInstanceUID
    inner join grid as g on l.SeriesInstanceUID = g.SeriesInstanceUID and l.stack = g.stack
),

gap as (
    select
        f.*,
        greatest(f.gap_max_mm - f.slice_spacing_mm, f.slice_spacing_mm - f.gap_min_mm)
            as gap_deviation_mm,
        gap_deviation_mm <= gap_tolerance(f.slice_spacing_mm) as is_even,
        if(is_even, null, list_median(f.gaps)) as gap_median_mm,
    from fact as f
),

-- Gaps that are whole multiples of one gap; a lambda would compute that one anew for each.
multiple as (
    select
        g.* exclude (gaps),
        degrees(acos(least(1, g.shear_cosine))) as shear_deg,
        if(
            g.gap_min_mm >= (1 - gap_share()) * g.gap_median_mm,
            list_transform(g.gaps, lambda x: x / g.gap_median_mm),
            null
        ) as multiples,
        list_bool_and(list_transform(multiples, lambda x: abs(x - round(x)) <= gap_share()))
            as is_multiple,
        list_sum(list_transform(multiples, lambda x: round(x) - 1))::bigint as n_lost,
    from gap as g
),

judged as (
    select
        m.SeriesInstanceUID,
        coalesce(y.n_invalid_frames, 0) as n_invalid_frames,
        f.* exclude (SeriesInstanceUID),
        case
            when f.slice_count = 1 and f.stack_frames > 1 then 'single_location_repeated'
            when f.slice_count = 1 then 'single_slice'
            when f.repeats_max > f.repeats_min then 'partial_duplicates'
            when f.repeats_max > 1 then 'repeated_stack'
            when p.SeriesInstanceUID is not null then 'missing_slices'
            when f.slice_spacing_mm not between min_spacing_mm() and max_spacing_mm()
                then 'invalid_spacing'
            when 1 - f.shear_cosine > shear_tolerance() then 'sheared'
            when f.in_plane_shift_mm > max_in_plane_shift_mm() then 'irregular'
            when f.is_even then 'regular'
            when f.is_multiple then 'missing_slices'
            else 'irregular'
        end as stack_geometry,
        case
            when y.n_images = 0 then 'not_image'
            when
                y.n_invalid_frames > 0
                or coalesce(list_contains(t.flags, 'frame_count_mismatch'), false)
                then 'invalid_position'
            when f.n_stacks = 1 then stack_geometry
            when f.is_mixed_orientation then 'mixed_orientation'
            when f.is_mixed_frame_of_reference then 'mixed_frame_of_reference'
            else 'mixed_matrix'
        end as geometry,
    from rollup.frame_statistics as m
    inner join rollup.agreed_attribute as t on m.SeriesInstanceUID = t.SeriesInstanceUID
    left join multiple as f on m.SeriesInstanceUID = f.SeriesInstanceUID
    left join frame_count as y on m.SeriesInstanceUID = y.SeriesInstanceUID
    left join part as p on m.SeriesInstanceUID = p.SeriesInstanceUID
)

select
    j.* exclude (
        multiples,
        n_lost,
        gap_median_mm,
        shear_cosine,
        is_even,
        is_multiple,
        is_mixed_orientation,
        is_mixed_frame_of_reference,
        stack_geometry,
        n_deep_stacks,
        n_kept
    )
    replace (
        coalesce(j.n_stacks, 0) as n_stacks,
        coalesce(j.repeat_kind, if(j.any_duplicates, 'copies', null)) as repeat_kind
    ),
    case
        when j.is_even then 0
        when j.is_multiple then j.n_lost
    end as missing_slice_count,
    case
        when
            j.geometry like 'mixed%'
            and j.stack_geometry = 'regular'
            and j.slice_count >= min_slices()
            and j.n_deep_stacks = 1
            and j.stack_frames >= salvage_share() * j.n_kept
            then format('keep the largest stack: {} of {} frames', j.stack_frames, j.n_kept::bigint)
        when j.geometry = 'sheared' and j.is_even
            then format('resample along the slope of the stack: {:.1f} degrees', j.shear_deg)
        when j.geometry not in ('repeated_stack', 'partial_duplicates', 'single_location_repeated')
            then null
        when j.repeat_kind = 'multi_echo' then 'split by EchoTime: one stack each'
        when j.repeat_kind = 'component' then 'keep one component: magnitude, or water'
        when j.repeat_kind = 'ct_two_acquisitions' then 'split by AcquisitionNumber: one stack each'
        when j.repeat_kind = 'multi_stack' then 'split by StackID: one stack each'
    end as salvage,
from judged as j;
