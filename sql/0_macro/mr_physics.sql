-- grain: pure functions
-- meaning: SOP classes of MR; field strength; what TR, TE and TI (ms) imply about the
--          weighting of spin echoes and about what an inversion nulls
-- source: DICOM PS3.4 B.5; signal equations; the paper (2.1.1) gives no numbers
create or replace macro is_enhanced_mr(sop_class) as
sop_class in ('1.2.840.10008.5.1.4.1.1.4.1', '1.2.840.10008.5.1.4.1.1.4.4');

create or replace macro is_mr_spectrum(sop_class) as
coalesce(sop_class = '1.2.840.10008.5.1.4.1.1.4.2', false);

create or replace macro field_tesla(strength, frequency) as
case
    when strength > gauss_from() then strength / gauss_per_tesla()
    when strength > 0 then strength
    else frequency / larmor_mhz_per_tesla()
end;

create or replace macro short_tr_limit(tesla) as
if(tesla <= low_field_tesla(), short_tr_low_field_ms(), short_tr_ms());

-- tr 0 is one excitation per volume; NULL is unknown. PD_OR_T2: words may decide for T2.
create or replace macro spin_echo_weight(tr, te, tesla) as
case
    when te >= long_te_ms() then 'T2-SE'
    when te <= 0 or te is null or tr is null then null
    when te <= short_te_ms() and tr > 0 and tr <= coalesce(short_tr_limit(tesla), short_tr_ms())
        then 'T1-SE'
    when tr > 0 and tr < long_tr_ms() then 'AMBIGUOUS'
    when te <= short_te_ms() then 'PD-SE'
    else 'PD_OR_T2'
end;

-- The TI at which tissue of this T1 has no signal when the inversion is repeated every TR.
create or replace macro nulling_ti(t1, tr) as t1 * (ln(2) - ln(1 + exp(-tr / t1)));

create or replace macro fat_ti(tesla) as
case
    when tesla >= high_field_tesla() then fat_ti_high_field_ms()
    when tesla < medium_field_tesla() then fat_ti_below_1t_ms()
    else fat_ti_ms()
end;

create or replace macro nulled_tissue(tr, ti, tesla) as
case
    when ti <= 0 or ti is null or tr <= 0 or tr is null then null
    when ti / nulling_ti(fluid_t1_ms(), tr) between fluid_null_low() and fluid_null_high()
        then 'fluid'
    when ti between fat_null_low_ms() and fluid_null_high() * fat_ti(tesla) then 'fat'
    else 'other'
end;
