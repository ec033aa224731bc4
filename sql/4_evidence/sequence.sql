-- grain: one row per series
-- meaning: headers, numbers and words that are evidence of the pulse sequence, before any rule
-- source: DICOM PS3.3 C.8.3.1, C.8.13
create view evidence.sequence as
with described as (
    -- The protocol's name counts where the description holds no evidence.
    select
        s.SeriesInstanceUID,
        coalesce(d.is_evidence, false) or not coalesce(p.is_evidence, false) as is_described,
        if(is_described, 'SeriesDescription', 'ProtocolName') as keyword,
        if(is_described, s.SeriesDescription, s.ProtocolName) as text,
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

located as (
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
    t.keyword,
    shorten(t.text) as text,
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
inner join described as t on j.SeriesInstanceUID = t.SeriesInstanceUID
inner join located as p on j.SeriesInstanceUID = p.SeriesInstanceUID
left join text.sequence as w on t.text = w.text
left join text.image_type as i on join_types(s.image_types, s.ImageType) = i.text;
comment on view evidence.sequence is
'headers, numbers and words that are evidence of the pulse sequence, one row per series';
comment on column evidence.sequence.is_ct is 'CT, by Modality or SOP class';
comment on column evidence.sequence.is_mr is 'MR, by Modality or SOP class';
comment on column evidence.sequence.code is 'pulse sequence as coded: EP, GR, IR or SE';
comment on column evidence.sequence.sequence_name is 'vendor''s sequence name';
comment on column evidence.sequence.tr is 'repetition time, ms';
comment on column evidence.sequence.te is 'echo time, ms';
comment on column evidence.sequence.ti is 'inversion time, ms';
comment on column evidence.sequence.has_two_inversions is 'two or more inversion times';
comment on column evidence.sequence.tesla is 'field strength, tesla';
comment on column evidence.sequence.largest_b is 'greatest b-value, s/mm2';
comment on column evidence.sequence.is_public_b is
'not GE, whose private element holds other values, too';
comment on column evidence.sequence.name_diffusion is 'vendor''s sequence name: diffusion';
comment on column evidence.sequence.flash_scout is
'vendor''s sequence name: FLASH in 2D, as of localizers';
comment on column evidence.sequence.family is 'EP, GR, IR or SE by code and sequence name';
comment on column evidence.sequence.nulled is
'tissue whose signal the inversion time nulls: fat or fluid';
comment on column evidence.sequence.weight is 'weighting that TR and TE imply';
comment on column evidence.sequence.echo_weights is
'weighting of each echo time, where they differ';
comment on column evidence.sequence.numbers_family is
'GR or SE by flip angle, TR, TE and echo train';
comment on column evidence.sequence.keyword is
'attribute of `text`: SeriesDescription, or ProtocolName where that holds no evidence';
comment on column evidence.sequence.text is 'the text that the words below were found in';
comment on column evidence.sequence.type_scout is 'ImageType: localizer';
comment on column evidence.sequence.type_adc is 'ImageType: ADC';
comment on column evidence.sequence.type_trace is 'ImageType: trace of diffusion';
comment on column evidence.sequence.type_derived is 'ImageType: projection, secondary, calculated';
comment on column evidence.sequence.is_brain is 'the texts name the brain';
comment on column evidence.sequence.is_trunk is 'the texts name the trunk';
comment on column evidence.sequence.is_place is 'the texts name a region';
comment on column evidence.sequence.is_inversion is
'inversion recovery by code, word and inversion time';
comment on column evidence.sequence.any_spin_echo is 'word: spin echo of any kind';
comment on column evidence.sequence.sop_class is 'evidence: SOPClassUID and Modality';
comment on column evidence.sequence.codes is 'evidence: coded sequence attributes';
comment on column evidence.sequence.numbers is 'evidence: sequence numbers';
comment on column evidence.sequence.stem is '`text` without numbers and phases';
comment on column evidence.sequence.is_evidence is
'`text` holds a word of a lexicon that is evidence of a sequence (lexicons.csv)';
