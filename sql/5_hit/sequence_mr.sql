-- grain: one row per series and MR sequence rule that fired
-- meaning: the sequence by each rule for MR images; rules/sequence.csv has rank, tier and meaning
-- conflict: rules of the contest `pulse` contradict each other; the others only lose
-- source: paper 2.1.1; DICOM PS3.3 C.8.3, C.8.13
create view hit.sequence_mr as
with mr as (
    select * from evidence.sequence
    where is_mr
)

select
    SeriesInstanceUID, 'SEQ-ADC-TYPE' as rule_id, 'ADC' as value,
    json_object('ImageType', ImageType) as evidence
from mr
where type_adc is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-TRACE-TYPE' as rule_id, 'DWI' as value,
    json_object('ImageType', ImageType) as evidence
from mr
where type_trace is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-DERIVED-TYPE' as rule_id, 'DERIVED' as value,
    json_object('ImageType', ImageType) as evidence
from mr
where type_derived is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-COMPONENT' as rule_id, 'DERIVED' as value,
    json_object('ComplexImageComponent', ComplexImageComponent) as evidence
from mr
where ComplexImageComponent in ('PHASE', 'REAL', 'IMAGINARY')
union all by name
select
    SeriesInstanceUID, 'SEQ-SCOUT-PLANE' as rule_id, 'LOCALIZER' as value,
    json_object('GEMS_ACQU_01_xx17', GEMS_ACQU_01_xx17) as evidence
from mr
where list_contains(GEMS_ACQU_01_xx17, ge_three_plane())
union all by name
select
    SeriesInstanceUID, 'SEQ-SCOUT-WORD' as rule_id, 'LOCALIZER' as value,
    word_evidence(keyword, text, concat_ws(' ', scout, mr_scout)) as evidence
from mr
where coalesce(scout, mr_scout) is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-SCOUT-FLASH' as rule_id, 'LOCALIZER' as value,
    json_object('SequenceName', sequence_name, 'slice_count', slice_count) as evidence
from mr
where flash_scout is not null and is_evidence is not true and slice_count < flash_scout_locations()
union all by name
select
    SeriesInstanceUID, 'SEQ-CALIBRATION-WORD' as rule_id, 'GR' as value,
    word_evidence(keyword, text, calibration) as evidence
from mr
where calibration is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-ADC-WORD' as rule_id, 'ADC' as value,
    word_evidence(keyword, text, adc_map) as evidence
from mr
where adc_map is not null
union all by name
select
    SeriesInstanceUID,
    'SEQ-DERIVED-WORD' as rule_id,
    'DERIVED' as value,
    word_evidence(
        keyword, text, concat_ws(' ', derived_image, projection, perfusion_map, mr_derived)
    )
        as evidence
from mr
where coalesce(derived_image, projection, perfusion_map, mr_derived) is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-DIFFUSION-CODE' as rule_id, 'DWI' as value,
    json_object(
        'b_values', largest_b, 'AcquisitionContrast', AcquisitionContrast, 'SequenceName',
        sequence_name
    ) as evidence
from mr
where
    AcquisitionContrast = 'DIFFUSION'
    or name_diffusion is not null
    or (largest_b > 0 and family is distinct from 'GR' and (is_public_b or family = 'EP'))
union all by name
select
    SeriesInstanceUID, 'SEQ-DIFFUSION-WORD' as rule_id, 'DWI' as value,
    word_evidence(keyword, text, diffusion) as evidence
from mr
where diffusion is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-FUNCTION-WORD' as rule_id, 'FMRI' as value,
    word_evidence(keyword, text, functional) as evidence
from mr
where functional is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-PERFUSION-CODE' as rule_id, 'PERFUSION' as value,
    json_object(
        'AcquisitionContrast', AcquisitionContrast, 'ArterialSpinLabelingContrast',
        ArterialSpinLabelingContrast
    ) as evidence
from mr
where AcquisitionContrast = 'PERFUSION' or ArterialSpinLabelingContrast is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-PERFUSION-WORD' as rule_id, 'PERFUSION' as value,
    word_evidence(keyword, text, perfusion) as evidence
from mr
where perfusion is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-ANGIO-WORD' as rule_id, 'MRA' as value,
    word_evidence(keyword, text, angiography) as evidence
from mr
where angiography is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-DYNAMIC-WORD' as rule_id, 'PERFUSION' as value,
    word_evidence(keyword, text, dynamic) as evidence
from mr
where dynamic is not null and single_shot is null and weight_t2 is null
union all by name
select
    SeriesInstanceUID, 'SEQ-ANGIO-CODE' as rule_id, 'MRA' as value,
    json_object(
        'AngioFlag', AngioFlag, 'TimeOfFlightContrast', TimeOfFlightContrast, 'PhaseContrast',
        PhaseContrast, 'AcquisitionContrast', AcquisitionContrast
    ) as evidence
from mr
where
    (AngioFlag = 'Y' and coalesce(family, 'GR') = 'GR')
    or TimeOfFlightContrast = 'YES'
    or PhaseContrast = 'YES'
    or AcquisitionContrast in ('TOF', 'FLOW_ENCODED')
union all by name
select
    SeriesInstanceUID, 'SEQ-SPECTRO-WORD' as rule_id, 'SPECTRO' as value,
    word_evidence(keyword, text, spectroscopy) as evidence
from mr
where spectroscopy is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-ELASTO-WORD' as rule_id, 'OTHER' as value,
    word_evidence(keyword, text, elastography) as evidence
from mr
where elastography is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-SWI-CODE' as rule_id, 'SWI' as value,
    json_object('AcquisitionContrast', AcquisitionContrast) as evidence
from mr
where AcquisitionContrast = 'T2_STAR'
union all by name
select
    SeriesInstanceUID, 'SEQ-SWI-WORD' as rule_id, 'SWI' as value,
    word_evidence(keyword, text, susceptibility) as evidence
from mr
where susceptibility is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-SE-NAMED-GRADIENT' as rule_id, null::varchar as value,
    json_object('ScanningSequence', ScanningSequence, keyword, text, 'word', gradient) as evidence
from mr
where code = 'SE' and family = 'SE' and gradient is not null
union all by name
select SeriesInstanceUID, 'SEQ-EP-CODE' as rule_id, 'EP' as value, codes as evidence
from mr
where family = 'EP'
union all by name
select
    SeriesInstanceUID,
    'SEQ-GR-INVERSION' as rule_id,
    if(gr_ir_policy() = 1 and nulled = 'fluid' and te <= flair_short_te_ms(), 'T1-FLAIR', 'GR')
        as value,
    numbers as evidence
from mr
where code = 'GR' and list_contains(ScanningSequence, 'IR')
union all by name
select SeriesInstanceUID, 'SEQ-GR-CODE' as rule_id, 'GR' as value, codes as evidence
from mr
where family = 'GR'
union all by name
select
    SeriesInstanceUID,
    'SEQ-IR-CONTRAST' as rule_id,
    case
        when AcquisitionContrast = 'STIR' then 'STIR'
        when te <= flair_short_te_ms() then 'T1-FLAIR'
        else 'T2-FLAIR'
    end as value,
    json_object('AcquisitionContrast', AcquisitionContrast, 'EffectiveEchoTime', te) as evidence
from mr
where AcquisitionContrast in ('FLUID_ATTENUATED', 'STIR')
union all by name
select
    SeriesInstanceUID,
    'SEQ-IR-DOUBLE' as rule_id,
    'IR-OTHER' as value,
    json_object('has_two_inversions', has_two_inversions, keyword, text, 'word', double_inversion)
        as evidence
from mr
where has_two_inversions or double_inversion is not null
union all by name
select
    SeriesInstanceUID,
    'SEQ-IR-TI' as rule_id,
    case
        when nulled = 'fat' then 'STIR'
        when nulled = 'other' then 'IR-OTHER'
        when te <= flair_short_te_ms() then 'T1-FLAIR'
        else 'T2-FLAIR'
    end as value,
    numbers as evidence
from mr
where is_inversion and (nulled <> 'fluid' or te <= flair_short_te_ms() or te >= flair_long_te_ms())
union all by name
select
    SeriesInstanceUID, 'SEQ-STIR-WORD' as rule_id, 'STIR' as value,
    word_evidence(keyword, text, stir) as evidence
from mr
where stir is not null and flair is null
union all by name
select
    SeriesInstanceUID, 'SEQ-FLAIR-T1-WORD' as rule_id, 'T1-FLAIR' as value,
    word_evidence(keyword, text, concat_ws(' ', flair, weight_t1)) as evidence
from mr
where flair is not null and weight_t1 is not null and weight_t2 is null
union all by name
select
    SeriesInstanceUID, 'SEQ-FLAIR-T2-WORD' as rule_id, 'T2-FLAIR' as value,
    word_evidence(keyword, text, concat_ws(' ', flair, weight_t2)) as evidence
from mr
where flair is not null and weight_t2 is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-FLAIR-WORD' as rule_id, 'T2-FLAIR' as value,
    word_evidence(keyword, text, flair) as evidence
from mr
where
    flair is not null and weight_t1 is null and weight_t2 is null
    and (not is_inversion or nulled <> 'fluid')
union all by name
select
    SeriesInstanceUID, 'SEQ-TIRM-WORD' as rule_id, 'STIR' as value,
    word_evidence(keyword, text, tirm) as evidence
from mr
where tirm is not null and flair is null and not is_inversion
union all by name
select SeriesInstanceUID, 'SEQ-IR-LONG' as rule_id, 'T2-FLAIR' as value, numbers as evidence
from mr
where family = 'IR' and nulled is null and tr >= flair_tr_ms() and te >= flair_te_ms() and is_brain
union all by name
select
    SeriesInstanceUID,
    'SEQ-IR-PAPER' as rule_id,
    if(te <= flair_short_te_ms(), 'T1-FLAIR', 'T2-FLAIR') as value,
    numbers as evidence
from mr
where family = 'IR' and nulled is null and (te <= flair_short_te_ms() or te >= flair_long_te_ms())
union all by name
select SeriesInstanceUID, 'SEQ-SE-NUMBERS' as rule_id, weight as value, numbers as evidence
from mr
where family = 'SE' and weight in ('T1-SE', 'T2-SE', 'PD-SE') and not is_inversion
union all by name
select
    SeriesInstanceUID,
    'SEQ-SE-ECHOES' as rule_id,
    if(len(echo_weights) = 1, echo_weights[1], null) as value,
    json_object('RepetitionTime', tr, 'EchoTime_values', EchoTime_values) as evidence
from mr
where
    family = 'SE' and (len(echo_weights) > 1 or echo_weights[1] in ('T1-SE', 'T2-SE', 'PD-SE'))
    and not is_inversion
union all by name
select
    SeriesInstanceUID,
    'SEQ-SE-MIDDLE' as rule_id,
    if(weight_t2 is not null, 'T2-SE', 'PD-SE') as value,
    numbers as evidence
from mr
where family = 'SE' and weight = 'PD_OR_T2' and not is_inversion
union all by name
select
    SeriesInstanceUID,
    'SEQ-SE-CONTRAST' as rule_id,
    case AcquisitionContrast when 'T1' then 'T1-SE' when 'T2' then 'T2-SE' else 'PD-SE' end
        as value,
    json_object(
        'EchoPulseSequence', EchoPulseSequence, 'AcquisitionContrast', AcquisitionContrast
    ) as evidence
from mr
where family = 'SE' and AcquisitionContrast in ('T1', 'T2', 'PROTON_DENSITY') and not is_inversion
union all by name
select
    SeriesInstanceUID, 'SEQ-GRADIENT-WORD' as rule_id, 'GR' as value,
    word_evidence(keyword, text, gradient) as evidence
from mr
where gradient is not null
union all by name
select
    SeriesInstanceUID, 'SEQ-SE-T2-WORD' as rule_id, 'T2-SE' as value,
    word_evidence(keyword, text, concat_ws(' ', any_spin_echo, weight_t2)) as evidence
from mr
where
    (any_spin_echo is not null or family = 'SE') and weight_t2 is not null and weight_t1 is null
    and coalesce(stir, flair, tirm, plain_ir, gradient) is null
union all by name
select
    SeriesInstanceUID, 'SEQ-SE-T1-WORD' as rule_id, 'T1-SE' as value,
    word_evidence(keyword, text, concat_ws(' ', any_spin_echo, weight_t1)) as evidence
from mr
where
    (any_spin_echo is not null or family = 'SE') and weight_t1 is not null and weight_t2 is null
    and coalesce(stir, flair, tirm, plain_ir, gradient) is null
union all by name
select
    SeriesInstanceUID, 'SEQ-SE-PD-WORD' as rule_id, 'PD-SE' as value,
    word_evidence(keyword, text, concat_ws(' ', any_spin_echo, proton_density)) as evidence
from mr
where
    (any_spin_echo is not null or family = 'SE') and proton_density is not null
    and weight_t1 is null and weight_t2 is null
    and coalesce(stir, flair, tirm, plain_ir, gradient) is null
union all by name
select
    SeriesInstanceUID, 'SEQ-DIXON-WORD' as rule_id, 'GR' as value,
    word_evidence(keyword, text, dixon) as evidence
from mr
where
    dixon is not null and family is null
    and coalesce(any_spin_echo, weight_t2, proton_density, stir, flair) is null
union all by name
select
    SeriesInstanceUID, 'SEQ-IR-WORD' as rule_id, 'STIR' as value,
    word_evidence(keyword, text, plain_ir) as evidence
from mr
where plain_ir is not null and not is_inversion and not is_brain and weight_t1 is null
union all by name
select
    SeriesInstanceUID, 'SEQ-SINGLE-SHOT-WORD' as rule_id, 'T2-SE' as value,
    word_evidence(keyword, text, single_shot) as evidence
from mr
where
    single_shot is not null and coalesce(weight_t1, weight_t2, proton_density) is null
    and family is null
union all by name
select
    SeriesInstanceUID, 'SEQ-EP-WORD' as rule_id, 'EP' as value,
    word_evidence(keyword, text, echo_planar) as evidence
from mr
where echo_planar is not null and family is null
union all by name
select SeriesInstanceUID, 'SEQ-NUMBERS-SE' as rule_id, weight as value, numbers as evidence
from mr
where family is null and numbers_family = 'SE' and weight in ('T1-SE', 'T2-SE', 'PD-SE')
union all by name
select
    SeriesInstanceUID, 'SEQ-NUMBERS-GR' as rule_id, 'GR' as value,
    json_object('FlipAngle', FlipAngle, 'RepetitionTime', tr) as evidence
from mr
where family is null and numbers_family = 'GR'
union all by name
select
    SeriesInstanceUID, 'SEQ-PD-WORD' as rule_id, 'PD-SE' as value,
    word_evidence(keyword, text, proton_density) as evidence
from mr
where proton_density is not null and weight_t1 is null and weight_t2 is null and family is null
union all by name
select
    SeriesInstanceUID, 'SEQ-T2-WORD' as rule_id, 'T2-SE' as value,
    word_evidence(keyword, text, weight_t2) as evidence
from mr
where weight_t2 is not null and weight_t1 is null and family is null
union all by name
select
    SeriesInstanceUID, 'SEQ-3D-WORD' as rule_id, 'GR' as value,
    word_evidence(keyword, text, concat_ws(' ', three_d, weight_t1, single_phase)) as evidence
from mr
where
    three_d is not null and (coalesce(weight_t1, single_phase) is not null or is_trunk)
    and coalesce(weight_t2, proton_density, any_spin_echo) is null and family is null
union all by name
select
    SeriesInstanceUID, 'SEQ-T1-WORD' as rule_id, 'T1-SE' as value,
    word_evidence(keyword, text, weight_t1) as evidence
from mr
where weight_t1 is not null and weight_t2 is null and family is null and is_place and not is_trunk
union all by name
select
    SeriesInstanceUID,
    'SEQ-PHASE-WORD' as rule_id,
    'GR' as value,
    word_evidence(keyword, text, concat_ws(' ', single_phase, phase_pass, breath_hold, weight_t1))
        as evidence
from mr
where
    (
        coalesce(single_phase, phase_pass) is not null
        or (weight_t1 is not null and breath_hold is not null)
    ) and coalesce(weight_t2, proton_density, any_spin_echo) is null and family is null
    and is_trunk
union all by name
select
    SeriesInstanceUID, 'SEQ-FSE-WORD' as rule_id, 'T2-SE' as value,
    word_evidence(keyword, text, turbo_spin_echo) as evidence
from mr
where
    turbo_spin_echo is not null and coalesce(weight_t1, weight_t2, proton_density) is null
    and family is null
union all by name
select
    SeriesInstanceUID, 'SEQ-CINE-WORD' as rule_id, 'GR' as value,
    word_evidence(keyword, text, cine) as evidence
from mr
where cine is not null and family is null
union all by name
select
    SeriesInstanceUID, 'SEQ-REFORMAT-WORD' as rule_id, 'DERIVED' as value,
    word_evidence(keyword, text, reformat) as evidence
from mr
where reformat is not null and family is null and numbers_family is null;
