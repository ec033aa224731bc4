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
        row_number() over (partition by w.SeriesInstanceUID order by w.n desc, w.way) as rank,
    from way as w
),

led as (
    select
        r.SeriesInstanceUID,
        list_reduce(
            list(
                [{'rank': r.rank, 'space': r.space, 'matrix': r.matrix, 'o': r.o, 's': r.s}]
                order by r.rank
            ),
            lambda leaders, one:
            if(
                len(list_filter(leaders, lambda l: is_same_stack(l, one[1]))) > 0,
                leaders,
                leaders || one
            )
        ) as leaders,
    from ranked as r
    where r.rank <= max_stack_ways()
    group by r.SeriesInstanceUID
),

followed as (
    select
        r.*,
        l.leaders[1] as main,
        list_filter(
            l.leaders,
            lambda k: is_same_stack(k, {'space': r.space, 'matrix': r.matrix, 'o': r.o, 's': r.s})
        )[1] as leader,
    from ranked as r
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
