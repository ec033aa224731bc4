-- grain: one row per SEG or RTSTRUCT object and image series that it may belong to; a mask without
-- an image has one row, with SeriesInstanceUID NULL
-- meaning: the series that the mask's header names, where the lake has that header; else those of
-- its study in its frame of reference; else, as for an RTSTRUCT in a pseudonymised lake that has
-- neither, each CT of its study, of which read_mask takes the one that fits
create temp view masked_image as
with mask as (
    select
        uri,
        archive_uri,
        min(SOPInstanceUID) as SOPInstanceUID,
        min(StudyInstanceUID) as StudyInstanceUID,
        min(FrameOfReferenceUID) as FrameOfReferenceUID,
        max(harvested_at) as harvested_at,
    from instances
    where object_kind in ('seg', 'rtstruct')
    group by uri, archive_uri
),

header as (
    select
        SOPInstanceUID,
        any_value(list_concat(
            json_extract_string(header, '$.00081115.Value[*].0020000E.Value[0]'),
            json_extract_string(
                header,
                '$.30060010.Value[*].30060012.Value[*].30060014.Value[*].0020000E.Value[0]'
            )
        )) as named,
    from series_headers
    where SOPInstanceUID in (select SOPInstanceUID from mask)
    group by SOPInstanceUID
),

image as (
    select
        SeriesInstanceUID,
        min(StudyInstanceUID) as StudyInstanceUID,
        min(Modality) as Modality,
        min(FrameOfReferenceUID) as FrameOfReferenceUID,
        min(PatientID) as PatientID,
        max(harvested_at) as harvested_at,
    from instances
    where
        object_kind = 'image'
        and SeriesInstanceUID <> ''
        and StudyInstanceUID in (select StudyInstanceUID from mask)
    group by SeriesInstanceUID
)

select
    m.uri as mask,
    m.archive_uri,
    m.harvested_at as mask_at,
    m.SOPInstanceUID,
    i.*,
from mask as m
left join header as h on m.SOPInstanceUID = h.SOPInstanceUID
left join image as i
    on
        m.StudyInstanceUID = i.StudyInstanceUID
        and case
            when len(h.named) > 0 then list_contains(h.named, i.SeriesInstanceUID)
            when m.FrameOfReferenceUID is not null
                then i.Modality = 'CT' and m.FrameOfReferenceUID = i.FrameOfReferenceUID
            else i.Modality = 'CT'
        end;
