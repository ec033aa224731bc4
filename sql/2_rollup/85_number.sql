-- grain: one row per series
-- meaning: the number that its rows agree on within agreement_share, and the values that it takes
-- source: rollup.measure, rollup.spread
create view rollup.number as
select
    m.SeriesInstanceUID,
    agreed_measure(m.least_RepetitionTime, m.greatest_RepetitionTime, v.RepetitionTime) as RepetitionTime,
    agreed_measure(m.least_EchoTime, m.greatest_EchoTime, v.EchoTime) as EchoTime,
    agreed_measure(m.least_EffectiveEchoTime, m.greatest_EffectiveEchoTime, v.EffectiveEchoTime) as EffectiveEchoTime,
    agreed_measure(m.least_InversionTime, m.greatest_InversionTime, v.InversionTime) as InversionTime,
    agreed_measure(m.least_FlipAngle, m.greatest_FlipAngle, v.FlipAngle) as FlipAngle,
    agreed_measure(m.least_EchoTrainLength, m.greatest_EchoTrainLength, v.EchoTrainLength) as EchoTrainLength,
    agreed_measure(m.least_RFEchoTrainLength, m.greatest_RFEchoTrainLength, v.RFEchoTrainLength) as RFEchoTrainLength,
    agreed_measure(m.least_GradientEchoTrainLength, m.greatest_GradientEchoTrainLength, v.GradientEchoTrainLength) as GradientEchoTrainLength,
    agreed_measure(m.least_MagneticFieldStrength, m.greatest_MagneticFieldStrength, v.MagneticFieldStrength) as MagneticFieldStrength,
    agreed_measure(m.least_ImagingFrequency, m.greatest_ImagingFrequency, v.ImagingFrequency) as ImagingFrequency,
    agreed_measure(m.least_TransmitterFrequency, m.greatest_TransmitterFrequency, v.TransmitterFrequency) as TransmitterFrequency,
    agreed_measure(m.least_SliceThickness, m.greatest_SliceThickness, v.SliceThickness) as SliceThickness,
    agreed_measure(m.least_SpacingBetweenSlices, m.greatest_SpacingBetweenSlices, v.SpacingBetweenSlices) as SpacingBetweenSlices,
    agreed_measure(m.least_GantryDetectorTilt, m.greatest_GantryDetectorTilt, v.GantryDetectorTilt) as GantryDetectorTilt,
    agreed_measure(m.least_ReconstructionDiameter, m.greatest_ReconstructionDiameter, v.ReconstructionDiameter) as ReconstructionDiameter,
    agreed_measure(m.least_NumberOfTemporalPositions, m.greatest_NumberOfTemporalPositions, v.NumberOfTemporalPositions) as NumberOfTemporalPositions,
    agreed_measure(m.least_CardiacNumberOfImages, m.greatest_CardiacNumberOfImages, v.CardiacNumberOfImages) as CardiacNumberOfImages,
    agreed_measure(m.least_NumberOfAverages, m.greatest_NumberOfAverages, v.NumberOfAverages) as NumberOfAverages,
    several_values(m.least_RepetitionTime, m.greatest_RepetitionTime, v.RepetitionTime_values) as RepetitionTime_values,
    several_values(m.least_EchoTime, m.greatest_EchoTime, v.EchoTime_values) as EchoTime_values,
    several_values(m.least_InversionTime, m.greatest_InversionTime, v.InversionTime_values) as InversionTime_values,
    several_values(m.least_FlipAngle, m.greatest_FlipAngle, v.FlipAngle_values) as FlipAngle_values,
    several_values(m.least_b, m.greatest_b, v.b_values) as b_values,
    list_filter(
        [
            if(not is_close(m.least_RepetitionTime, m.greatest_RepetitionTime), 'RepetitionTime', null),
            if(not is_close(m.least_EchoTime, m.greatest_EchoTime), 'EchoTime', null),
            if(not is_close(m.least_EffectiveEchoTime, m.greatest_EffectiveEchoTime), 'EffectiveEchoTime', null),
            if(not is_close(m.least_InversionTime, m.greatest_InversionTime), 'InversionTime', null),
            if(not is_close(m.least_FlipAngle, m.greatest_FlipAngle), 'FlipAngle', null),
            if(not is_close(m.least_EchoTrainLength, m.greatest_EchoTrainLength), 'EchoTrainLength', null),
            if(not is_close(m.least_RFEchoTrainLength, m.greatest_RFEchoTrainLength), 'RFEchoTrainLength', null),
            if(not is_close(m.least_GradientEchoTrainLength, m.greatest_GradientEchoTrainLength), 'GradientEchoTrainLength', null),
            if(not is_close(m.least_MagneticFieldStrength, m.greatest_MagneticFieldStrength), 'MagneticFieldStrength', null),
            if(not is_close(m.least_ImagingFrequency, m.greatest_ImagingFrequency), 'ImagingFrequency', null),
            if(not is_close(m.least_TransmitterFrequency, m.greatest_TransmitterFrequency), 'TransmitterFrequency', null),
            if(not is_close(m.least_SliceThickness, m.greatest_SliceThickness), 'SliceThickness', null),
            if(not is_close(m.least_SpacingBetweenSlices, m.greatest_SpacingBetweenSlices), 'SpacingBetweenSlices', null),
            if(not is_close(m.least_GantryDetectorTilt, m.greatest_GantryDetectorTilt), 'GantryDetectorTilt', null),
            if(not is_close(m.least_ReconstructionDiameter, m.greatest_ReconstructionDiameter), 'ReconstructionDiameter', null),
            if(not is_close(m.least_NumberOfTemporalPositions, m.greatest_NumberOfTemporalPositions), 'NumberOfTemporalPositions', null),
            if(not is_close(m.least_CardiacNumberOfImages, m.greatest_CardiacNumberOfImages), 'CardiacNumberOfImages', null),
            if(not is_close(m.least_NumberOfAverages, m.greatest_NumberOfAverages), 'NumberOfAverages', null)
        ],
        lambda k: k is not null
    ) as varying_numbers,
    list_filter(
        [
            if(m.greatest_RepetitionTime is null, 'RepetitionTime', null),
            if(m.greatest_EchoTime is null, 'EchoTime', null),
            if(m.greatest_EffectiveEchoTime is null, 'EffectiveEchoTime', null),
            if(m.greatest_InversionTime is null, 'InversionTime', null),
            if(m.greatest_FlipAngle is null, 'FlipAngle', null),
            if(m.greatest_EchoTrainLength is null, 'EchoTrainLength', null),
            if(m.greatest_RFEchoTrainLength is null, 'RFEchoTrainLength', null),
            if(m.greatest_GradientEchoTrainLength is null, 'GradientEchoTrainLength', null),
            if(m.greatest_MagneticFieldStrength is null, 'MagneticFieldStrength', null),
            if(m.greatest_ImagingFrequency is null, 'ImagingFrequency', null),
            if(m.greatest_TransmitterFrequency is null, 'TransmitterFrequency', null),
            if(m.greatest_SliceThickness is null, 'SliceThickness', null),
            if(m.greatest_SpacingBetweenSlices is null, 'SpacingBetweenSlices', null),
            if(m.greatest_GantryDetectorTilt is null, 'GantryDetectorTilt', null),
            if(m.greatest_ReconstructionDiameter is null, 'ReconstructionDiameter', null),
            if(m.greatest_NumberOfTemporalPositions is null, 'NumberOfTemporalPositions', null),
            if(m.greatest_CardiacNumberOfImages is null, 'CardiacNumberOfImages', null),
            if(m.greatest_NumberOfAverages is null, 'NumberOfAverages', null)
        ],
        lambda k: k is not null
    ) as silent_numbers,
from rollup.measure as m
left join rollup.spread as v on m.SeriesInstanceUID = v.SeriesInstanceUID;
