-- grain: one row per CT or MR series
-- meaning: the extent of the stack along the body, and for each text of the header the regions that
-- it names: labels that pass their gates, and labels that the stack is too short for; is_whole: the
-- stack is long enough for all regions of that text together
-- source: text.region, regions.csv, thresholds.csv
create view evidence.coverage as
with image as (
    select
        *,
        coalesce(Modality = 'CT' or is_ct_class(SOPClassUID), false) as is_ct,
        flatten(list_transform(coalesce(image_types, []), lambda t: string_split(t, '\')))
            as image_type_words,
        code_meanings(AnatomicRegionSequence) as coded_text,
        code_meanings(ProcedureCodeSequence) as procedure_text,
        menu_protocol(StudyDescription) as study_text,
        menu_folder(StudyDescription) as folder_text,
    from stage.series
    where is_ct_class(SOPClassUID) or is_mr_class(SOPClassUID) or Modality in ('CT', 'MR')
),

measured as (
    select
        i.*,
        coalesce(d.scout, if(i.is_ct, null, d.mr_scout), y.scout) as scout,
        d.bolus_start,
        coalesce(
            d.projection is not null
            or len(list_filter(
                i.image_type_words, lambda t: contains(t, 'MIP') or starts_with(t, 'PROJECTION')
            )) > 0,
            false
        ) as is_projection,
        if(len(i.ImageOrientationPatient) = 6, i.ImageOrientationPatient, null) as orientation,
        -- a mosaic's rows and columns hold many slices
        if(i.mosaic, null, i.Rows * i.PixelSpacing[1]) as rows_mm,
        if(i.mosaic, null, i.Columns * i.PixelSpacing[2]) as columns_mm,
        case
            when is_projection or i.mosaic then null
            when i.slice_count = 1 then coalesce(i.SliceThickness, 0)
            else i.slice_count * i.slice_spacing_mm
        end as slab_mm,
    from image as i
    left join text.sequence as d on i.SeriesDescription = d.text
    left join text.image_type as y on join_types(i.image_types, i.ImageType) = y.text
),

boxed as (
    select
        *,
        {
            'width_mm': body_extent_mm(orientation, 1, rows_mm, columns_mm, slab_mm),
            'depth_mm': body_extent_mm(orientation, 2, rows_mm, columns_mm, slab_mm),
            'height_mm': body_extent_mm(orientation, 3, rows_mm, columns_mm, slab_mm),
            'view': nearest_view(orientation),
            'scale': body_scale(PatientAge),
            'is_one_side': coalesce(
                coalesce(Laterality, ImageLaterality, FrameLaterality) in ('L', 'R'), false
            )
        } as box,
    from measured
)

select
    s.SeriesInstanceUID,
    s.is_ct,
    s.scout,
    s.bolus_start,
    s.is_projection,
    s.slice_count,
    s.mosaic,
    s.box,
    s.SeriesDescription,
    s.ProtocolName,
    s.StudyDescription,
    s.PerformedProcedureStepDescription,
    s.BodyPartExamined,
    s.collection,
    s.coded_text,
    s.procedure_text,
    s.image_types,
    c.location,
    series.monitor,
    series.sheet,
    series.mrcp,
    series.angio,
    series.brain_habit,
    series.breast_habit,
    study.angio as study_angio,
    coalesce(series.intervention, protocol.intervention, study.intervention) as intervention,
    read_regions(if(s.is_ct, coded.ct, coded.mr), s.box) as coded,
    read_regions(if(s.is_ct, series.ct, series.mr), s.box) as series,
    read_regions(if(s.is_ct, protocol.ct, protocol.mr), s.box) as protocol,
    read_regions(if(s.is_ct, code.ct, code.mr), s.box) as code,
    read_regions(if(s.is_ct, study.ct, study.mr), s.box) as study,
    read_regions(if(s.is_ct, folder.ct, folder.mr), s.box) as folder,
    read_regions(if(s.is_ct, step.ct, step.mr), s.box) as step,
    read_regions(if(s.is_ct, part.site, part.mr), s.box) as part,
    read_regions(if(s.is_ct, named.site, named.mr), s.box) as named,
    read_regions(if(s.is_ct, site.site, site.mr), s.box) as site,
from boxed as s
left join text.region as coded on s.coded_text = coded.text
left join text.region as series on s.SeriesDescription = series.text
left join text.region as protocol on s.ProtocolName = protocol.text
left join text.region as code on s.procedure_text = code.text
left join text.region as study on s.study_text = study.text
left join text.region as folder on s.folder_text = folder.text
left join text.region as step on s.PerformedProcedureStepDescription = step.text
left join text.region as part on s.BodyPartExamined = part.text
left join text.region as named on s.collection = named.text
left join rule.collections as c on named.compact = c.collection_key
left join text.region as site on c.location = site.text;
comment on view evidence.coverage is
'extent of the stack and the regions that each text names, one row per CT or MR series';
comment on column evidence.coverage.is_ct is 'CT, by Modality or SOP class';
comment on column evidence.coverage.scout is 'localizer, by SeriesDescription or ImageType';
comment on column evidence.coverage.bolus_start is
'SeriesDescription: CT started by bolus tracking';
comment on column evidence.coverage.is_projection is
'projection, by SeriesDescription or ImageType';
comment on column evidence.coverage.mosaic is 'each frame holds many slices as tiles';
comment on column evidence.coverage.box is
'extent of the stack along the body axes, mm; view; scale for children; one side only';
comment on column evidence.coverage.coded_text is 'meanings of AnatomicRegionSequence';
comment on column evidence.coverage.procedure_text is 'meanings of ProcedureCodeSequence';
comment on column evidence.coverage.image_types is
'distinct ImageType values, joined by a backslash';
comment on column evidence.coverage.location is 'body part of the collection (collections.csv)';
comment on column evidence.coverage.monitor is 'word: monitoring of a bolus';
comment on column evidence.coverage.sheet is 'word: sheets and reports';
comment on column evidence.coverage.mrcp is 'word: bile ducts';
comment on column evidence.coverage.angio is 'word of the series: vessels';
comment on column evidence.coverage.brain_habit is
'word: sequences that are used for the brain alone';
comment on column evidence.coverage.breast_habit is
'word: sequences that are used for the breast alone';
comment on column evidence.coverage.study_angio is 'word of the study: vessels';
comment on column evidence.coverage.intervention is 'word: interventions';
comment on column evidence.coverage.coded is
'regions of AnatomicRegionSequence, with labels that pass their gates';
comment on column evidence.coverage.series is 'regions of SeriesDescription, likewise';
comment on column evidence.coverage.protocol is 'regions of ProtocolName, likewise';
comment on column evidence.coverage.code is 'regions of ProcedureCodeSequence, likewise';
comment on column evidence.coverage.study is 'regions of StudyDescription, likewise';
comment on column evidence.coverage.folder is
'regions of the folder that a scanner menu puts into StudyDescription';
comment on column evidence.coverage.step is
'regions of PerformedProcedureStepDescription, likewise';
comment on column evidence.coverage.part is 'regions of BodyPartExamined, likewise';
comment on column evidence.coverage.named is 'regions of the collection''s name, likewise';
comment on column evidence.coverage.site is 'regions of the collection''s body part, likewise';
