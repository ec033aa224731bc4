-- grain: one row per series
-- meaning: what its headers, numbers and words say of the pulse sequence, without a verdict
-- source: DICOM PS3.3 C.8.3.1, C.8.13
create view evidence.sequence as
with told as (
    -- A protocol's name speaks where the description holds no word that we know.
    select
        s.SeriesInstanceUID,
        coalesce(d.is_evidence, false) or not coalesce(p.is_evidence, false) as is_described,
        if(is_described, 'SeriesDescription', 'ProtocolName') as said_in,
        if(is_described, s.SeriesDescription, s.ProtocolName) as said,
    from stage.series as s
    left join text.sequence as d on s.SeriesDescription = d.text
    left join text.sequence as p on s.ProtocolName = p.text
),

places as (
    select
        text,
        len(mr.regions) > 0 as is_place,
        list_contains(mr.regions, 'brain') as is_brain,
        list_has_any(
            mr.regions,
            [
                'chest', 'lung', 'lung_base', 'heart', 'breast', 'abdomen', 'kidney', 'one_kidney',
                'kidney_to_pelvis', 'bowel', 'torso', 'whole_body'
            ]
        ) as is_trunk,
    from text.region
),

placed as (
    select
        s.SeriesInstanceUID,
        case when d.is_place then d.is_brain when y.is_place then y.is_brain else b.is_brain end
            as is_brain,
        case when d.is_place then d.is_trunk when y.is_place then y.is_trunk else b.is_trunk end
            as is_trunk,
        coalesce(d.is_place or y.is_place or b.is_place, false) as is_place,
    from stage.series as s
    left join places as d on s.SeriesDescription = d.text
    left join places as y on s.StudyDescription = y.text
    left join places as b on s.BodyPartExamined = b.text
),

coded as (
    select
        SeriesInstanceUID,
        coalesce(is_ct_class(SOPClassUID), Modality = 'CT', false) as is_ct,
        coalesce(is_mr_class(SOPClassUID), Modality = 'MR', false) as is_mr,
        case
            when EchoPlanarPulseSequence = 'YES' then 'EP'
            when EchoPulseSequence = 'GRADIENT' or RFEchoTrainLength = 0 then 'GR'
            when EchoPulseSequence = 'SPIN' and InversionRecovery = 'YES' then 'IR'
            when EchoPulseSequence = 'SPIN' then 'SE'
            when list_contains(ScanningSequence, 'EP') then 'EP'
            when list_contains(ScanningSequence, 'GR') then 'GR'
            when list_contains(ScanningSequence, 'IR') then 'IR'
            when list_contains(ScanningSequence, 'SE') then 'SE'
        end as code,
        coalesce(
            SequenceName,
            PulseSequenceName,
            GEMS_ACQU_01_xx9E,
            GEMS_ACQU_01_xx9C,
            Philips_Imaging_DD_001_xx20
        ) as sequence_name,
        if(RepetitionTime > 0 or is_enhanced_mr(SOPClassUID), RepetitionTime, null) as tr,
        nullif(coalesce(EffectiveEchoTime, EchoTime), 0) as te,
        coalesce(nullif(InversionTime, 0), InversionTimes[1]) as ti,
        len(InversionTimes) > 1 as has_two_inversions,
        field_tesla(MagneticFieldStrength, coalesce(ImagingFrequency, TransmitterFrequency))
            as tesla,
        list_max(list_filter(b_values, lambda b: b <= largest_b_value())) as largest_b,
        -- GE keeps other things in its private element too: there only an echo planar one counts
        not starts_with(coalesce(upper(Manufacturer), ''), 'GE') as is_public_b,
    from stage.series
),

judged as (
    select
        c.*,
        n.diffusion as name_diffusion,
        n.flash_scout,
        case
            when c.code = 'EP' or n.family = 'EP' then 'EP'
            when c.code = 'GR' then 'GR'
            when c.code = 'IR' or n.family = 'IR' then 'IR'
            else coalesce(c.code, n.family)
        end as family,
        nulled_tissue(c.tr, c.ti, c.tesla) as nulled,
        spin_echo_weight(c.tr, c.te, c.tesla) as weight,
        list_distinct(
            list_transform(
                if(c.te is null, s.EchoTime_values, []),
                lambda te: spin_echo_weight(c.tr, te, c.tesla)
            )
        ) as echo_weights,
        case
            when c.te > turbo_te_ms() and s.EchoTrainLength >= turbo_echo_train() then 'SE'
            when s.FlipAngle < gradient_flip_deg() and c.tr < gradient_tr_ms() then 'GR'
            when s.FlipAngle >= spin_flip_deg() and c.tr >= spin_tr_ms() then 'SE'
        end as numbers_family,
    from coded as c
    inner join stage.series as s on c.SeriesInstanceUID = s.SeriesInstanceUID
    left join text.sequence_name as n on c.sequence_name = n.text
)

select
    j.*,
    t.said_in,
    left(t.said, 1024) as said,
    w.* exclude (text),
    i.scout as type_scout,
    i.adc as type_adc,
    i.trace as type_trace,
    i.derived_image as type_derived,
    coalesce(p.is_brain, false) as is_brain,
    coalesce(p.is_trunk, false) as is_trunk,
    p.is_place,
    s.Modality,
    s.SOPClassUID,
    s.object_kind,
    s.ImageType,
    s.PhotometricInterpretation,
    s.ScanningSequence,
    s.EchoPulseSequence,
    s.AcquisitionContrast,
    s.ArterialSpinLabelingContrast,
    s.ComplexImageComponent,
    s.AngioFlag,
    s.TimeOfFlightContrast,
    s.PhaseContrast,
    s.GEMS_ACQU_01_xx17,
    s.EchoTrainLength,
    s.FlipAngle,
    s.EchoTime_values,
    s.slice_count,
    j.nulled is not null
    and coalesce(if(j.family = 'IR', 'IR', null), w.stir, w.tirm, w.flair, w.plain_ir)
    is not null as is_inversion,
    coalesce(w.spin_echo, w.turbo_spin_echo, w.single_shot) as any_spin_echo,
    json_object('SOPClassUID', s.SOPClassUID, 'Modality', s.Modality) as sop_class,
    json_object(
        'ScanningSequence', s.ScanningSequence, 'EchoPulseSequence', s.EchoPulseSequence,
        'SequenceName', j.sequence_name
    ) as codes,
    json_object(
        'ScanningSequence', s.ScanningSequence, 'SequenceName', j.sequence_name,
        'RepetitionTime', s.RepetitionTime, 'EchoTime', j.te, 'InversionTime', j.ti,
        'MagneticFieldStrength', s.MagneticFieldStrength
    ) as numbers,
from judged as j
inner join stage.series as s on j.SeriesInstanceUID = s.SeriesInstanceUID
inner join told as t on j.SeriesInstanceUID = t.SeriesInstanceUID
inner join placed as p on j.SeriesInstanceUID = p.SeriesInstanceUID
left join text.sequence as w on t.said = w.text
left join text.image_type as i on join_types(s.image_types, s.ImageType) = i.text;
