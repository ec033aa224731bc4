-- grain: one row per series whose study has other series of the same acquisition
-- meaning: the number of these series, this one counted: they have the same grid, the same timing
-- and, apart from numbers and phases, the same name
-- source: dynamic studies of public archives, split into one series per phase
create view evidence.sibling as
with named as (
    select
        s.SeriesInstanceUID,
        s.first_position,
        s.ImageOrientationPatient,
        coalesce(t.stem, '') as stem,
        [
            s.slice_spacing_mm, s.PixelSpacing[1], s.PixelSpacing[2], s.RepetitionTime,
            coalesce(s.EffectiveEchoTime, s.EchoTime),
            coalesce(s.InversionTime, s.InversionTimes[1]), s.FlipAngle
        ] as numbers,
        {
            'study': s.StudyInstanceUID,
            'frame': s.FrameOfReferenceUID,
            'rows': s."Rows",
            'columns': s."Columns",
            'slices': s.slice_count,
            'stem': coalesce(t.stem, '')
        } as grid,
        count(*) over (partition by grid) as n_named,
    from stage.series as s
    left join text.sequence as t on s.SeriesDescription = t.text
    where
        s.slice_count > 1 and s.first_position is not null
        and s.StudyInstanceUID is not null and s.FrameOfReferenceUID is not null
        and coalesce(
            t.scout, t.mr_scout, t.adc_map, t.perfusion_map, t.mr_derived, t.derived_image,
            t.projection, t.diffusion
        ) is null
        and s.repeat_kind is distinct from 'diffusion'
),

pairs as (
    select
        a.SeriesInstanceUID,
        a.stem,
        count(*) as n_equal,
    from named as a
    inner join named as b on a.grid = b.grid
    where
        a.n_named between 2 and compared_siblings()
        and list_distance(a.first_position, b.first_position) <= sibling_shift_mm()
        and list_distance(a.ImageOrientationPatient, b.ImageOrientationPatient) <= sibling_share()
        and list_bool_and(
            list_transform(
                list_zip(a.numbers, b.numbers),
                lambda p: p[1] is not distinct from p[2]
                or coalesce(abs(p[1] - p[2]) <= sibling_share() * abs(p[1]), false)
            )
        )
    group by all
)

select
    SeriesInstanceUID,
    stem,
    n_equal,
from pairs
where n_equal > 1

union all

-- Comparing all pairs of so many would take for ever, and they cannot be single acquisitions.
select
    SeriesInstanceUID,
    stem,
    n_named,
from named
where n_named > compared_siblings();
comment on view evidence.sibling is
'series of a study that are one acquisition, one row per series that has equals';
comment on column evidence.sibling.stem is 'SeriesDescription without numbers and phases';
comment on column evidence.sibling.n_equal is
'series of the study with equal grid, timing and stem, this one counted';
