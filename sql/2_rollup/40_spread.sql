-- grain: one row per series in which a number takes several values
-- meaning: these values, and the median of those that are close to each other
-- source: frame.plane
create view rollup.spread as
select
    p.SeriesInstanceUID,
    list(distinct p.RepetitionTime order by p.RepetitionTime) filter (where p.RepetitionTime is not null)
        as RepetitionTime_values,
    list(distinct p.EchoTime order by p.EchoTime) filter (where p.EchoTime is not null)
        as EchoTime_values,
    list(distinct p.InversionTime order by p.InversionTime) filter (where p.InversionTime is not null)
        as InversionTime_values,
    list(distinct p.FlipAngle order by p.FlipAngle) filter (where p.FlipAngle is not null)
        as FlipAngle_values,
    list(distinct p.b order by p.b) filter (where p.b is not null) as b_values,
    median(p.RepetitionTime) as RepetitionTime,
    median(p.EchoTime) as EchoTime,
    median(p.EffectiveEchoTime) as EffectiveEchoTime,
    median(p.InversionTime) as InversionTime,
    median(p.FlipAngle) as FlipAngle,
    median(p.EchoTrainLength) as EchoTrainLength,
    median(p.RFEchoTrainLength) as RFEchoTrainLength,
    median(p.GradientEchoTrainLength) as GradientEchoTrainLength,
    median(p.MagneticFieldStrength) as MagneticFieldStrength,
    median(p.ImagingFrequency) as ImagingFrequency,
    median(p.TransmitterFrequency) as TransmitterFrequency,
    median(p.SliceThickness) as SliceThickness,
    median(p.SpacingBetweenSlices) as SpacingBetweenSlices,
    median(p.GantryDetectorTilt) as GantryDetectorTilt,
    median(p.ReconstructionDiameter) as ReconstructionDiameter,
    median(p.NumberOfTemporalPositions) as NumberOfTemporalPositions,
    median(p.CardiacNumberOfImages) as CardiacNumberOfImages,
    median(p.NumberOfAverages) as NumberOfAverages,
from frame.plane as p
semi join (
    select m.SeriesInstanceUID
    from rollup.measure as m
    where
        m.least_b <> m.greatest_b
        or m.least_RepetitionTime <> m.greatest_RepetitionTime
        or m.least_EchoTime <> m.greatest_EchoTime
        or m.least_EffectiveEchoTime <> m.greatest_EffectiveEchoTime
        or m.least_InversionTime <> m.greatest_InversionTime
        or m.least_FlipAngle <> m.greatest_FlipAngle
        or m.least_EchoTrainLength <> m.greatest_EchoTrainLength
        or m.least_RFEchoTrainLength <> m.greatest_RFEchoTrainLength
        or m.least_GradientEchoTrainLength <> m.greatest_GradientEchoTrainLength
        or m.least_MagneticFieldStrength <> m.greatest_MagneticFieldStrength
        or m.least_ImagingFrequency <> m.greatest_ImagingFrequency
        or m.least_TransmitterFrequency <> m.greatest_TransmitterFrequency
        or m.least_SliceThickness <> m.greatest_SliceThickness
        or m.least_SpacingBetweenSlices <> m.greatest_SpacingBetweenSlices
        or m.least_GantryDetectorTilt <> m.greatest_GantryDetectorTilt
        or m.least_ReconstructionDiameter <> m.greatest_ReconstructionDiameter
        or m.least_NumberOfTemporalPositions <> m.greatest_NumberOfTemporalPositions
        or m.least_CardiacNumberOfImages <> m.greatest_CardiacNumberOfImages
        or m.least_NumberOfAverages <> m.greatest_NumberOfAverages
) as s
    on p.SeriesInstanceUID = s.SeriesInstanceUID
group by p.SeriesInstanceUID;
