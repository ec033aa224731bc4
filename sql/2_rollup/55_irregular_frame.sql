-- grain: one row per frame of a series that is not in rollup.simple_stack
-- meaning: its position, and what distinguishes it from other frames there; content: equal where
-- two frames have equal attributes; frame_of_reference, matrix: what the frames of one stack share
-- source: frame.live; content is hashed after the join, because few series come here
create view rollup.irregular_frame as
with rest as (
    select m.SeriesInstanceUID
    from rollup.frame_statistics as m
    anti join rollup.simple_stack as s on m.SeriesInstanceUID = s.SeriesInstanceUID
)

select
    p.SeriesInstanceUID,
    {
        'date': coalesce(p.InstanceCreationDate, date '0001-01-01'),
        'time': coalesce(p.InstanceCreationTime, 0),
        'harvested_at': p.harvested_at,
        'row': row_number() over ()
    } as file_age,
    p.ImageOrientationPatient,
    p.ImagePositionPatient,
    p.PixelSpacing,
    p."Rows",
    p."Columns",
    p.AcquisitionNumber,
    p.AcquisitionTime,
    p.AcquisitionDateTime,
    p.FrameAcquisitionDateTime,
    p.TemporalPositionIdentifier,
    p.TemporalPositionIndex,
    p.TriggerTime,
    p.NominalCardiacTriggerDelayTime,
    p.InversionTime,
    p.FlipAngle,
    p.StackID,
    p.ConcatenationUID,
    p.InConcatenationNumber,
    p.InConcatenationTotalNumber,
    b_value(
        p.DiffusionBValue,
        p.SIEMENS_MR_HEADER_xx0C,
        p.Philips_Imaging_DD_001_xx03,
        p.Image_Private_Header_xx09,
        p.GEMS_PARM_01_xx39
    ) as b,
    nullif(p.SOPInstanceUID, '') as SOPInstanceUID,
    nullif(p.FrameOfReferenceUID, '') as frame_of_reference,
    coalesce(p.frame_number, 1) as frame_number,
    coalesce(p.EffectiveEchoTime, p.EchoTime) as EchoTime,
    p.object_kind = 'image' as is_image,
    is_image
    and is_plane(
        p.ImageOrientationPatient, p.ImagePositionPatient, p.PixelSpacing, p."Rows", p."Columns"
    ) as is_valid,
    p.Modality = 'CT' as is_ct,
    p.InstanceNumber is null as is_unnumbered,
    p.NumberOfTemporalPositions > 1 as has_time_points,
    p.CardiacNumberOfImages > 1 as has_cardiac_phases,
    hash(p.ImageType[3:], p.FrameType[3:], p.ComplexImageComponent) as component,
    hash(p.SOPClassUID, p.SamplesPerPixel, p."Rows", p."Columns") as matrix,
    hash(
        p.ImageOrientationPatient,
        p.ImagePositionPatient,
        p.PixelSpacing,
        p."Rows",
        p."Columns",
        p.FrameOfReferenceUID,
        p.SOPClassUID,
        p.frame_number,
        p.InstanceNumber,
        p.AcquisitionNumber,
        p.AcquisitionDate,
        p.AcquisitionTime,
        p.ContentTime,
        p.AcquisitionDateTime,
        p.FrameAcquisitionDateTime,
        p.FrameReferenceDateTime,
        p.TemporalPositionIdentifier,
        p.TemporalPositionIndex,
        p.TriggerTime,
        p.NominalCardiacTriggerDelayTime,
        p.RepetitionTime,
        p.EchoTime,
        p.EffectiveEchoTime,
        p.EchoNumbers,
        p.InversionTime,
        p.FlipAngle,
        b,
        p.ImageType,
        p.FrameType,
        p.ComplexImageComponent,
        p.StackID,
        p.DimensionIndexValues,
        p.SeriesDescription
    ) as content,
from frame.live as p
semi join rest as r on p.SeriesInstanceUID = r.SeriesInstanceUID;
