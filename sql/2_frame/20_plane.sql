-- grain: one row per frame of a wanted series
-- meaning: where the frame lies: d, u, v in mm along its own normal, rows and columns; grid: equal
-- where frames are of one kind and fit on each other exactly
-- source: DICOM PS3.3 C.7.6.2
create view frame.plane as
select
    f.*,
    normal_distance(f.ImageOrientationPatient, f.ImagePositionPatient) as d,
    row_distance(f.ImageOrientationPatient, f.ImagePositionPatient) as u,
    column_distance(f.ImageOrientationPatient, f.ImagePositionPatient) as v,
    hash(
        f.object_kind,
        f.SOPClassUID,
        f.SamplesPerPixel,
        f.FrameOfReferenceUID,
        f."Rows",
        f."Columns",
        f.PixelSpacing,
        f.ImageOrientationPatient,
        len(f.ImagePositionPatient)
    ) as grid,
    b_value(
        f.DiffusionBValue,
        f.SIEMENS_MR_HEADER_xx0C,
        f.Philips_Imaging_DD_001_xx03,
        f.Image_Private_Header_xx09,
        f.GEMS_PARM_01_xx39
    ) as b,
from frame.live as f;
