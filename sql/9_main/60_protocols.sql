-- grain: one row per modality and pattern of series and study description
-- meaning: CT and MR series with an unknown or contested label, grouped by description: where a row
-- of the site's protocol table decides most labels; labels that the site has decided are left out
-- source: series
create view protocols as
with image as (
    select
        *,
        sequence is null and coalesce(sequence_tier, '') <> 'site' as no_sequence,
        view is null and coalesce(view_tier, '') <> 'site' as no_view,
        contrast is null and coalesce(contrast_tier, '') <> 'site' as no_contrast,
        coverage is null and coalesce(coverage_tier, '') <> 'site' as no_coverage,
        time_series is null and coalesce(time_series_tier, '') <> 'site' as no_time_series,
        list_transform(
            [SeriesDescription, StudyDescription, ProtocolName],
            lambda x: trim(
                regexp_replace(regexp_replace(fold(x), '\p{N}+', '#', 'g'), '\s+', ' ', 'g')
            )
        ) as texts
    from series
    where not list_contains(exclusions, 'not_image')
),

lacking as (
    select
        SeriesInstanceUID,
        Modality,
        no_sequence,
        no_view,
        no_contrast,
        no_coverage,
        no_time_series,
        texts[1] as series_pattern,
        sequence_conflict or view_conflict or contrast_conflict or coverage_conflict
        or time_series_conflict as is_contested,
        (no_sequence or sequence_conflict)::integer + (no_view or view_conflict)::integer
        + (no_contrast or contrast_conflict)::integer + (no_coverage or coverage_conflict)::integer
        + (no_time_series or time_series_conflict)::integer as n_labels,
        if(texts[2] <> '' or texts[3] = '', texts[2], texts[3]) as study_pattern,
        if(texts[2] <> '' or texts[3] = '', 'StudyDescription', 'ProtocolName') as study_keyword,
        -- Whether the series is in, or a label of it would bring it in: bad geometry stays bad.
        len(
            list_filter(
                exclusions,
                lambda e: case
                    when e in ('seq', 'stir', 'derived') then not (no_sequence or sequence_conflict)
                    when e = 'time' then not (no_time_series or time_series_conflict)
                    when e = 'view' then not (no_view or view_conflict)
                    else e <> 'conflict'
                end
            )
        ) = 0 as is_winnable
    from image
)

select
    Modality,
    series_pattern,
    study_pattern,
    study_keyword,
    coalesce(sum(n_labels) filter (is_winnable), 0)::bigint as labels_to_win,
    count(*) as n_series,
    count(*) filter (is_contested) as n_conflict,
    count(*) filter (no_sequence) as no_sequence,
    count(*) filter (no_view) as no_view,
    count(*) filter (no_contrast) as no_contrast,
    count(*) filter (no_coverage) as no_coverage,
    count(*) filter (no_time_series) as no_time_series,
    coalesce(min(SeriesInstanceUID) filter (is_winnable), min(SeriesInstanceUID)) as example
from lacking
where n_labels > 0
group by Modality, series_pattern, study_pattern, study_keyword
order by
    labels_to_win desc,
    n_series desc,
    Modality asc,
    series_pattern asc,
    study_pattern asc,
    study_keyword asc;
comment on view protocols is
'descriptions that most series without an answer share; next rows for the site''s protocol table';
comment on column protocols.Modality is 'DICOM modality';
comment on column protocols.series_pattern is
'SeriesDescription in upper case, without accents, each number as #';
comment on column protocols.study_pattern is
'StudyDescription likewise; where there is none, ProtocolName';
comment on column protocols.study_keyword is 'which of the two study_pattern is from';
comment on column protocols.labels_to_win is
'missing or contested labels of series that are in, or that such a label would bring in';
comment on column protocols.n_series is 'series with a missing or contested label';
comment on column protocols.n_conflict is 'of them: with a contested label';
comment on column protocols.no_sequence is 'of them: sequence is unknown';
comment on column protocols.no_view is 'of them: view is unknown';
comment on column protocols.no_contrast is 'of them: contrast is unknown';
comment on column protocols.no_coverage is 'of them: coverage is unknown';
comment on column protocols.no_time_series is 'of them: time_series is unknown';
comment on column protocols.example is 'SeriesInstanceUID of one of them, for radnet-lake explain';
