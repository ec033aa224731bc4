-- grain: one row per series and reason that fired, whatever else fired
-- meaning: the reasons to leave a series out of training; exclusions.csv has their order
-- conflict: none: every reason is a flag of its own
-- source: paper 2.1 and 3; DICOM PS3.3
create view exclusion.exclusion as
with image as (
    select
        s.*,
        q.value as sequence,
        q.conflict as sequence_conflict,
        v.value as "view",
        v.rule_id as view_rule,
        t.value as time_series,
        t.rule_id as time_series_rule,
        resized_spacing_mm(s.slice_count, s.slice_spacing_mm) as effective_spacing_mm,
    from stage.series as s
    left join decision.decision as q
        on s.SeriesInstanceUID = q.SeriesInstanceUID and q.label = 'sequence'
    left join decision.decision as v
        on s.SeriesInstanceUID = v.SeriesInstanceUID and v.label = 'view'
    left join decision.decision as t
        on s.SeriesInstanceUID = t.SeriesInstanceUID and t.label = 'time_series'
    where is_ct_class(s.SOPClassUID) or is_mr_class(s.SOPClassUID)
),

-- Series whose pixels made no volume at the last try, for good.
volume_failure as (
    select SeriesInstanceUID, reason, harvested_at, n_rows
    from (
        select v.*
        from stored.volumes as v
        semi join stage.series as s on v.SeriesInstanceUID = s.SeriesInstanceUID
        qualify row_number() over (partition by v.SeriesInstanceUID order by v.made_at desc) = 1
    ) as latest
    where is_final and reason is not null
),

fired as (
    select
        SeriesInstanceUID,
        'EXC-GEOM' as rule_id,
        coalesce(geometry, 'invalid_position') as detail,
    from image
    where geometry is distinct from 'regular'

    union all
    select SeriesInstanceUID, 'EXC-GEOM-STRICT', format('a gap is {:.3f} mm off', gap_deviation_mm)
    from image
    where geometry = 'regular' and gap_deviation_mm > strict_gap_share() * slice_spacing_mm

    union all
    select SeriesInstanceUID, 'EXC-FEW', format('{} slice locations', coalesce(slice_count, 0))
    from image
    where coalesce(slice_count, 0) < min_slices()

    union all
    select
        s.SeriesInstanceUID,
        'EXC-NODESC',
        case
            when list_contains(s.varying_keywords, 'SeriesDescription') then 'several'
            when s.SeriesDescription is null then 'absent'
            when trim(s.SeriesDescription) = '' then 'empty'
            else 'a placeholder'
        end,
    from image as s
    left join text.description as t on s.SeriesDescription = t.text
    where
        (s.SeriesDescription is null or t.is_placeholder)
        and (
            rescue_description() = 0
            or trim(concat(s.ProtocolName, s.PerformedProcedureStepDescription)) = ''
        )

    union all
    select SeriesInstanceUID, 'EXC-TIME', time_series_rule
    from image
    where time_series = 'true'

    union all
    select
        SeriesInstanceUID,
        'EXC-SEQ',
        concat_ws(', ', coalesce(sequence, 'cannot be told'), repeat_kind),
    from image
    where
        is_mr_class(SOPClassUID)
        and (
            coalesce(sequence, '')
            not in ('T1-SE', 'T2-SE', 'T1-FLAIR', 'T2-FLAIR', 'STIR', 'LOCALIZER')
            or coalesce(repeat_kind, '') in ('diffusion', 'mapping')
        )

    union all
    select SeriesInstanceUID, 'EXC-SEQ-LOCALIZER', 'localizer'
    from image
    where sequence = 'LOCALIZER'

    union all
    select SeriesInstanceUID, 'EXC-STIR', 'STIR'
    from image
    where sequence = 'STIR'

    union all
    select SeriesInstanceUID, 'EXC-SPACING', format('{:.2f} mm', effective_spacing_mm)
    from image
    where effective_spacing_mm > max_effective_spacing_mm() + rounding_mm()

    union all
    select
        SeriesInstanceUID,
        'EXC-VIEW',
        case
            when "view" is null then 'cannot be told'
            when "view" = 'oblique' then 'oblique'
            else "view" || ', rows or columns turned'
        end,
    from image
    where
        coalesce("view", 'oblique') = 'oblique'
        or (
            view_rule is distinct from 'VIEW-ROUNDED'
            and not coalesce(is_standard(ImageOrientationPatient), false)
        )

    union all
    select SeriesInstanceUID, 'EXC-DERIVED', sequence
    from image
    where sequence in ('DERIVED', 'ADC')

    union all
    select SeriesInstanceUID, 'EXC-CONFLICT', 'sequence'
    from image
    where sequence_conflict

    union all
    select i.SeriesInstanceUID, 'EXC-CONFLICT-ANY', string_agg(d.label, ', ' order by d.label)
    from image as i
    inner join decision.decision as d on i.SeriesInstanceUID = d.SeriesInstanceUID
    where d.conflict
    group by all

    union all
    select i.SeriesInstanceUID, 'EXC-WEAK', string_agg(d.label, ', ' order by d.label)
    from image as i
    inner join decision.decision as d on i.SeriesInstanceUID = d.SeriesInstanceUID
    where
        d.tier in ('study_text', 'body_part', 'collection', 'assumed')
        and d.value is not null
        -- that nothing repeats is always assumed
        and d.label <> 'time_series'
    group by all

    union all
    select
        SeriesInstanceUID,
        'EXC-IDENTITY',
        format('{} studies, {} patients', n_studies, n_patients),
    from image
    where n_studies > 1 or n_patients > 1

    union all
    select SeriesInstanceUID, 'EXC-PHI', 'burned-in annotation'
    from image
    where BurnedInAnnotation = 'YES'

    union all
    select SeriesInstanceUID, 'EXC-PIXEL', 'transfer syntax ' || TransferSyntaxUID
    from image
    where
        regexp_matches(TransferSyntaxUID, '^1\.2\.840\.10008\.1\.2\.4\.(9[45]|10\d|20[45])')
        or TransferSyntaxUID like '1.2.840.10008.1.2.7.%'

    union all
    -- A file that is harvested anew may be a better one.
    select i.SeriesInstanceUID, 'EXC-PIXEL', v.reason
    from image as i
    inner join volume_failure as v
        on
            i.SeriesInstanceUID = v.SeriesInstanceUID
            and i.last_harvested_at = v.harvested_at
            and i.n_frames = v.n_rows

    union all
    select SeriesInstanceUID, 'EXC-NOT-IMAGE', concat_ws(' ', object_kind, Modality)
    from stage.series
    where not coalesce(is_ct_class(SOPClassUID) or is_mr_class(SOPClassUID), false)
)

select
    f.SeriesInstanceUID,
    f.rule_id,
    f.detail,
    e.reason,
    e.rank,
    e.paper_rank,
from fired as f
inner join rule.exclusions as e on f.rule_id = e.rule_id
inner join rule.run as run on list_contains(string_split(e.modes, '|'), run.mode);
