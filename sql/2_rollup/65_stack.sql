-- grain: one row per series and way its frames lie (orientation, pixel spacing, matrix, space)
-- meaning: which stack such frames belong to; leader: the way that this stack is measured by
-- source: the most frequent way leads; later ones follow a leader within tolerance, or lead
create view rollup.stack as
with way as (
    select
        t.SeriesInstanceUID,
        t.way,
        count(*) as n,
        min(t.space) as space,
        min(t.matrix) as matrix,
        min(t.ImageOrientationPatient) as o,
        min(t.PixelSpacing) as s,
    from rollup.placed as t
    group by t.SeriesInstanceUID, t.way
),

ranked as (
    select
        w.*,
        row_number() over (partition by w.SeriesInstanceUID order by w.n desc, w.way asc) as rank,
    from way as w
),

described as (
    select
        r.*,
        {
            'rank': r.rank,
            'space': r.space,
            'matrix': r.matrix,
            'o': r.o,
            's': r.s
        } as fact,
    from ranked as r
),

led as (
    select
        r.SeriesInstanceUID,
        list([r.fact] order by r.rank) as ways,
        list_reduce( -- noqa: PRS
            ways,
            lambda led, one: if(
                len(list_filter(led, lambda l: is_same_stack(l, one[1]))) > 0, led, led || one
            )
        ) as leaders,
    from described as r
    where r.rank <= max_stack_ways()
    group by r.SeriesInstanceUID
),

followed as (
    select
        r.*,
        l.leaders[1] as main,
        list_filter(l.leaders, lambda k: is_same_stack(k, r.fact))[1] as leader,
    from described as r
    inner join led as l on r.SeriesInstanceUID = l.SeriesInstanceUID
)

select
    f.SeriesInstanceUID,
    f.way,
    f.rank,
    coalesce(f.leader['rank'], f.rank) as stack,
    coalesce(f.leader['o'], f.o) as reference,
    f.main['space'] <> f.space as is_other_space,
    not is_same_orientation(f.main['o'], f.o) as is_other_orientation,
from followed as f;
