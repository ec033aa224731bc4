-- grain: one row per series and orientation_key: orientation, pixel spacing, matrix, frame of
-- reference
-- meaning: the stack of such frames; reference: the orientation that it is measured along
-- source: the most frequent orientation is the reference of a stack; each later one joins the first
-- stack whose reference it equals within tolerance, or begins a new stack
create view rollup.stack_orientation as
with orientation as (
    select
        t.SeriesInstanceUID,
        t.orientation_key,
        count(*) as n,
        min(t.frame_of_reference) as frame_of_reference,
        min(t.matrix) as matrix,
        min(t.ImageOrientationPatient) as o,
        min(t.PixelSpacing) as s,
    from rollup.distinct_frame as t
    group by t.SeriesInstanceUID, t.orientation_key
),

ranked as (
    select
        w.*,
        row_number() over (
            partition by w.SeriesInstanceUID
            order by w.n desc, w.orientation_key asc
        ) as rank,
    from orientation as w
),

described as (
    select
        r.*,
        {
            'rank': r.rank,
            'frame_of_reference': r.frame_of_reference,
            'matrix': r.matrix,
            'o': r.o,
            's': r.s
        } as fact,
    from ranked as r
),

grouped as (
    select
        r.SeriesInstanceUID,
        list([r.fact] order by r.rank) as orientations,
        list_reduce( -- noqa: PRS
            orientations,
            lambda found, one: if(
                len(list_filter(found, lambda l: is_same_stack(l, one[1]))) > 0, found, found || one
            )
        ) as stack_references,
    from described as r
    where r.rank <= max_stack_orientations()
    group by r.SeriesInstanceUID
),

assigned as (
    select
        r.*,
        l.stack_references[1] as main,
        list_filter(l.stack_references, lambda k: is_same_stack(k, r.fact))[1] as reference_group,
    from described as r
    inner join grouped as l on r.SeriesInstanceUID = l.SeriesInstanceUID
)

select
    f.SeriesInstanceUID,
    f.orientation_key,
    f.rank,
    coalesce(f.reference_group['rank'], f.rank) as stack,
    coalesce(f.reference_group['o'], f.o) as reference,
    f.main['frame_of_reference'] <> f.frame_of_reference as is_other_frame_of_reference,
    not is_same_orientation(f.main['o'], f.o) as is_other_orientation,
from assigned as f;
