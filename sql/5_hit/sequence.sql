-- grain: one row per series and sequence rule that fired
-- meaning: what each rule says the sequence is; rules/sequence.csv has rank, tier and meaning
-- conflict: rules of the contest `pulse` contradict each other; the others only lose
-- source: paper 2.1.1; DICOM PS3.3 C.8.2, C.8.3, C.8.13
create view hit.sequence as
with mr as (
    select * from evidence.sequence
    where is_mr
),

ct as (
    select * from evidence.sequence
    where is_ct
)

select SeriesInstanceUID, 'SEQ-NOT-IMAGE' as rule_id, null::varchar as value, sop_class as evidence
from evidence.sequence
where object_kind <> 'image'
union all
select SeriesInstanceUID, 'SEQ-SPECTRUM', 'SPECTRO', sop_class
from evidence.sequence
where is_mr_spectrum(SOPClassUID)
union all
select SeriesInstanceUID, 'SEQ-OTHER-MODALITY', 'OTHER', sop_class
from evidence.sequence
where
    object_kind = 'image' and not is_ct and not is_mr
    and coalesce(Modality, '') not in ('CT', 'MR') and not is_mr_spectrum(SOPClassUID)
union all
select SeriesInstanceUID, 'SEQ-CAPTURE', 'DERIVED', sop_class
from evidence.sequence
where
    object_kind = 'image' and not is_ct and not is_mr and Modality in ('CT', 'MR')
    and not is_mr_spectrum(SOPClassUID)
union all
select
    SeriesInstanceUID, 'SEQ-COLOUR', 'DERIVED',
    json_object('PhotometricInterpretation', PhotometricInterpretation)
from evidence.sequence
where (is_ct or is_mr) and PhotometricInterpretation not in ('MONOCHROME1', 'MONOCHROME2', '')
union all
select SeriesInstanceUID, 'SEQ-SCOUT-TYPE', 'LOCALIZER', json_object('ImageType', ImageType)
from evidence.sequence
where (is_ct or is_mr) and type_scout is not null
union all
select SeriesInstanceUID, 'SEQ-CT-SCOUT-WORD', 'LOCALIZER', told(said_in, said, scout)
from ct
where scout is not null
union all
select SeriesInstanceUID, 'SEQ-CT-DERIVED-TYPE', 'DERIVED', json_object('ImageType', ImageType)
from ct
where type_derived is not null
union all
select
    SeriesInstanceUID, 'SEQ-CT-DERIVED-WORD', 'DERIVED',
    told(said_in, said, concat_ws(' ', derived_image, projection, perfusion_map))
from ct
where coalesce(derived_image, projection, perfusion_map) is not null
union all
select
    SeriesInstanceUID, 'SEQ-CT', 'CT',
    json_object('SOPClassUID', SOPClassUID, 'cone_beam', cone_beam)
from ct
union all
select SeriesInstanceUID, 'SEQ-ADC-TYPE', 'ADC', json_object('ImageType', ImageType)
from mr
where type_adc is not null
union all
select SeriesInstanceUID, 'SEQ-TRACE-TYPE', 'DWI', json_object('ImageType', ImageType)
from mr
where type_trace is not null
union all
select SeriesInstanceUID, 'SEQ-DERIVED-TYPE', 'DERIVED', json_object('ImageType', ImageType)
from mr
where type_derived is not null
union all
select
    SeriesInstanceUID, 'SEQ-COMPONENT', 'DERIVED',
    json_object('ComplexImageComponent', ComplexImageComponent)
from mr
where ComplexImageComponent in ('PHASE', 'REAL', 'IMAGINARY')
union all
select
    SeriesInstanceUID, 'SEQ-SCOUT-PLANE', 'LOCALIZER',
    json_object('GEMS_ACQU_01_xx17', GEMS_ACQU_01_xx17)
from mr
where list_contains(GEMS_ACQU_01_xx17, ge_three_plane())
union all
select
    SeriesInstanceUID, 'SEQ-SCOUT-WORD', 'LOCALIZER',
    told(said_in, said, concat_ws(' ', scout, mr_scout))
from mr
where coalesce(scout, mr_scout) is not null
union all
select
    SeriesInstanceUID, 'SEQ-SCOUT-FLASH', 'LOCALIZER',
    json_object('SequenceName', sequence_name, 'slice_count', slice_count)
from mr
where flash_scout is not null and is_evidence is not true and slice_count < flash_scout_locations()
union all
select SeriesInstanceUID, 'SEQ-CALIBRATION-WORD', 'GR', told(said_in, said, calibration)
from mr
where calibration is not null
union all
select SeriesInstanceUID, 'SEQ-ADC-WORD', 'ADC', told(said_in, said, adc_map)
from mr
where adc_map is not null
union all
select
    SeriesInstanceUID, 'SEQ-DERIVED-WORD', 'DERIVED',
    told(said_in, said, concat_ws(' ', derived_image, projection, perfusion_map, mr_derived))
from mr
where coalesce(derived_image, projection, perfusion_map, mr_derived) is not null
union all
select
    SeriesInstanceUID, 'SEQ-DIFFUSION-CODE', 'DWI',
    json_object(
        'b_values', largest_b, 'AcquisitionContrast', AcquisitionContrast, 'SequenceName',
        sequence_name
    )
from mr
where
    AcquisitionContrast = 'DIFFUSION'
    or name_diffusion is not null
    or (largest_b > 0 and family is distinct from 'GR' and (is_public_b or family = 'EP'))
union all
select SeriesInstanceUID, 'SEQ-DIFFUSION-WORD', 'DWI', told(said_in, said, diffusion)
from mr
where diffusion is not null
union all
select SeriesInstanceUID, 'SEQ-FUNCTION-WORD', 'FMRI', told(said_in, said, functional)
from mr
where functional is not null
union all
select
    SeriesInstanceUID, 'SEQ-PERFUSION-CODE', 'PERFUSION',
    json_object(
        'AcquisitionContrast', AcquisitionContrast, 'ArterialSpinLabelingContrast',
        ArterialSpinLabelingContrast
    )
from mr
where AcquisitionContrast = 'PERFUSION' or ArterialSpinLabelingContrast is not null
union all
select SeriesInstanceUID, 'SEQ-PERFUSION-WORD', 'PERFUSION', told(said_in, said, perfusion)
from mr
where perfusion is not null
union all
select SeriesInstanceUID, 'SEQ-ANGIO-WORD', 'MRA', told(said_in, said, angiography)
from mr
where angiography is not null
union all
select SeriesInstanceUID, 'SEQ-DYNAMIC-WORD', 'PERFUSION', told(said_in, said, dynamic)
from mr
where dynamic is not null and single_shot is null and weight_t2 is null
union all
select
    SeriesInstanceUID, 'SEQ-ANGIO-CODE', 'MRA',
    json_object(
        'AngioFlag', AngioFlag, 'TimeOfFlightContrast', TimeOfFlightContrast, 'PhaseContrast',
        PhaseContrast, 'AcquisitionContrast', AcquisitionContrast
    )
from mr
where
    (AngioFlag = 'Y' and coalesce(family, 'GR') = 'GR')
    or TimeOfFlightContrast = 'YES'
    or PhaseContrast = 'YES'
    or AcquisitionContrast in ('TOF', 'FLOW_ENCODED')
union all
select SeriesInstanceUID, 'SEQ-SPECTRO-WORD', 'SPECTRO', told(said_in, said, spectroscopy)
from mr
where spectroscopy is not null
union all
select SeriesInstanceUID, 'SEQ-ELASTO-WORD', 'OTHER', told(said_in, said, elastography)
from mr
where elastography is not null
union all
select
    SeriesInstanceUID, 'SEQ-SWI-CODE', 'SWI',
    json_object('AcquisitionContrast', AcquisitionContrast)
from mr
where AcquisitionContrast = 'T2_STAR'
union all
select SeriesInstanceUID, 'SEQ-SWI-WORD', 'SWI', told(said_in, said, susceptibility)
from mr
where susceptibility is not null
union all
select
    SeriesInstanceUID, 'SEQ-SE-NAMED-GRADIENT', null::varchar,
    json_object('ScanningSequence', ScanningSequence, said_in, said, 'word', gradient)
from mr
where code = 'SE' and family = 'SE' and gradient is not null
union all
select SeriesInstanceUID, 'SEQ-EP-CODE', 'EP', codes
from mr
where family = 'EP'
union all
select
    SeriesInstanceUID, 'SEQ-GR-INVERSION',
    if(gr_ir_policy() = 1 and nulled = 'fluid' and te <= flair_short_te_ms(), 'T1-FLAIR', 'GR'),
    numbers
from mr
where code = 'GR' and list_contains(ScanningSequence, 'IR')
union all
select SeriesInstanceUID, 'SEQ-GR-CODE', 'GR', codes
from mr
where family = 'GR'
union all
select
    SeriesInstanceUID, 'SEQ-IR-CONTRAST',
    case
        when AcquisitionContrast = 'STIR' then 'STIR'
        when te <= flair_short_te_ms() then 'T1-FLAIR'
        else 'T2-FLAIR'
    end, json_object('AcquisitionContrast', AcquisitionContrast, 'EffectiveEchoTime', te)
from mr
where AcquisitionContrast in ('FLUID_ATTENUATED', 'STIR')
union all
select
    SeriesInstanceUID, 'SEQ-IR-DOUBLE', 'IR-OTHER',
    json_object('has_two_inversions', has_two_inversions, said_in, said, 'word', double_inversion)
from mr
where has_two_inversions or double_inversion is not null
union all
select
    SeriesInstanceUID, 'SEQ-IR-TI',
    case
        when nulled = 'fat' then 'STIR'
        when nulled = 'other' then 'IR-OTHER'
        when te <= flair_short_te_ms() then 'T1-FLAIR'
        else 'T2-FLAIR'
    end, numbers
from mr
where is_inversion and (nulled <> 'fluid' or te <= flair_short_te_ms() or te >= flair_long_te_ms())
union all
select SeriesInstanceUID, 'SEQ-STIR-WORD', 'STIR', told(said_in, said, stir)
from mr
where stir is not null and flair is null
union all
select
    SeriesInstanceUID, 'SEQ-FLAIR-T1-WORD', 'T1-FLAIR',
    told(said_in, said, concat_ws(' ', flair, weight_t1))
from mr
where flair is not null and weight_t1 is not null and weight_t2 is null
union all
select
    SeriesInstanceUID, 'SEQ-FLAIR-T2-WORD', 'T2-FLAIR',
    told(said_in, said, concat_ws(' ', flair, weight_t2))
from mr
where flair is not null and weight_t2 is not null
union all
select SeriesInstanceUID, 'SEQ-FLAIR-WORD', 'T2-FLAIR', told(said_in, said, flair)
from mr
where
    flair is not null and weight_t1 is null and weight_t2 is null
    and (not is_inversion or nulled <> 'fluid')
union all
select SeriesInstanceUID, 'SEQ-TIRM-WORD', 'STIR', told(said_in, said, tirm)
from mr
where tirm is not null and flair is null and not is_inversion
union all
select SeriesInstanceUID, 'SEQ-IR-LONG', 'T2-FLAIR', numbers
from mr
where family = 'IR' and nulled is null and tr >= flair_tr_ms() and te >= flair_te_ms() and is_brain
union all
select
    SeriesInstanceUID, 'SEQ-IR-PAPER', if(te <= flair_short_te_ms(), 'T1-FLAIR', 'T2-FLAIR'),
    numbers
from mr
where family = 'IR' and nulled is null and (te <= flair_short_te_ms() or te >= flair_long_te_ms())
union all
select SeriesInstanceUID, 'SEQ-SE-NUMBERS', weight, numbers
from mr
where family = 'SE' and weight in ('T1-SE', 'T2-SE', 'PD-SE') and not is_inversion
union all
select
    SeriesInstanceUID, 'SEQ-SE-ECHOES', if(len(echo_weights) = 1, echo_weights[1], null),
    json_object('RepetitionTime', tr, 'EchoTime_values', EchoTime_values)
from mr
where
    family = 'SE' and (len(echo_weights) > 1 or echo_weights[1] in ('T1-SE', 'T2-SE', 'PD-SE'))
    and not is_inversion
union all
select SeriesInstanceUID, 'SEQ-SE-MIDDLE', if(weight_t2 is not null, 'T2-SE', 'PD-SE'), numbers
from mr
where family = 'SE' and weight = 'PD_OR_T2' and not is_inversion
union all
select
    SeriesInstanceUID, 'SEQ-SE-CONTRAST',
    case AcquisitionContrast when 'T1' then 'T1-SE' when 'T2' then 'T2-SE' else 'PD-SE' end,
    json_object(
        'EchoPulseSequence', EchoPulseSequence, 'AcquisitionContrast', AcquisitionContrast
    )
from mr
where family = 'SE' and AcquisitionContrast in ('T1', 'T2', 'PROTON_DENSITY') and not is_inversion
union all
select SeriesInstanceUID, 'SEQ-GRADIENT-WORD', 'GR', told(said_in, said, gradient)
from mr
where gradient is not null
union all
select
    SeriesInstanceUID, 'SEQ-SE-T2-WORD', 'T2-SE',
    told(said_in, said, concat_ws(' ', any_spin_echo, weight_t2))
from mr
where
    (any_spin_echo is not null or family = 'SE') and weight_t2 is not null and weight_t1 is null
    and coalesce(stir, flair, tirm, plain_ir, gradient) is null
union all
select
    SeriesInstanceUID, 'SEQ-SE-T1-WORD', 'T1-SE',
    told(said_in, said, concat_ws(' ', any_spin_echo, weight_t1))
from mr
where
    (any_spin_echo is not null or family = 'SE') and weight_t1 is not null and weight_t2 is null
    and coalesce(stir, flair, tirm, plain_ir, gradient) is null
union all
select
    SeriesInstanceUID, 'SEQ-SE-PD-WORD', 'PD-SE',
    told(said_in, said, concat_ws(' ', any_spin_echo, proton_density))
from mr
where
    (any_spin_echo is not null or family = 'SE') and proton_density is not null
    and weight_t1 is null and weight_t2 is null
    and coalesce(stir, flair, tirm, plain_ir, gradient) is null
union all
select SeriesInstanceUID, 'SEQ-DIXON-WORD', 'GR', told(said_in, said, dixon)
from mr
where
    dixon is not null and family is null
    and coalesce(any_spin_echo, weight_t2, proton_density, stir, flair) is null
union all
select SeriesInstanceUID, 'SEQ-IR-WORD', 'STIR', told(said_in, said, plain_ir)
from mr
where plain_ir is not null and not is_inversion and not is_brain and weight_t1 is null
union all
select SeriesInstanceUID, 'SEQ-SINGLE-SHOT-WORD', 'T2-SE', told(said_in, said, single_shot)
from mr
where
    single_shot is not null and coalesce(weight_t1, weight_t2, proton_density) is null
    and family is null
union all
select SeriesInstanceUID, 'SEQ-EP-WORD', 'EP', told(said_in, said, echo_planar)
from mr
where echo_planar is not null and family is null
union all
select SeriesInstanceUID, 'SEQ-NUMBERS-SE', weight, numbers
from mr
where family is null and numbers_family = 'SE' and weight in ('T1-SE', 'T2-SE', 'PD-SE')
union all
select
    SeriesInstanceUID, 'SEQ-NUMBERS-GR', 'GR',
    json_object('FlipAngle', FlipAngle, 'RepetitionTime', tr)
from mr
where family is null and numbers_family = 'GR'
union all
select SeriesInstanceUID, 'SEQ-PD-WORD', 'PD-SE', told(said_in, said, proton_density)
from mr
where proton_density is not null and weight_t1 is null and weight_t2 is null and family is null
union all
select SeriesInstanceUID, 'SEQ-T2-WORD', 'T2-SE', told(said_in, said, weight_t2)
from mr
where weight_t2 is not null and weight_t1 is null and family is null
union all
select
    SeriesInstanceUID, 'SEQ-3D-WORD', 'GR',
    told(said_in, said, concat_ws(' ', three_d, weight_t1, single_phase))
from mr
where
    three_d is not null and (coalesce(weight_t1, single_phase) is not null or is_trunk)
    and coalesce(weight_t2, proton_density, any_spin_echo) is null and family is null
union all
select SeriesInstanceUID, 'SEQ-T1-WORD', 'T1-SE', told(said_in, said, weight_t1)
from mr
where weight_t1 is not null and weight_t2 is null and family is null and is_place and not is_trunk
union all
select
    SeriesInstanceUID, 'SEQ-PHASE-WORD', 'GR',
    told(said_in, said, concat_ws(' ', single_phase, phase_pass, breath_hold, weight_t1))
from mr
where
    (
        coalesce(single_phase, phase_pass) is not null
        or (weight_t1 is not null and breath_hold is not null)
    ) and coalesce(weight_t2, proton_density, any_spin_echo) is null and family is null
    and is_trunk
union all
select SeriesInstanceUID, 'SEQ-FSE-WORD', 'T2-SE', told(said_in, said, turbo_spin_echo)
from mr
where
    turbo_spin_echo is not null and coalesce(weight_t1, weight_t2, proton_density) is null
    and family is null
union all
select SeriesInstanceUID, 'SEQ-CINE-WORD', 'GR', told(said_in, said, cine)
from mr
where cine is not null and family is null
union all
select SeriesInstanceUID, 'SEQ-REFORMAT-WORD', 'DERIVED', told(said_in, said, reformat)
from mr
where reformat is not null and family is null and numbers_family is null;
