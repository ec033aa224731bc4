-- grain: pure functions, and aggregates over the rows of a series
-- meaning: what a series is called, and what its rows say together
-- source: DICOM PS3.3 C.7.3.1; rows that do not say anything do not contradict

-- A series' name: its UID, or one per folder and modality where files have none.
create or replace macro folder_key(uri, modality) as
'no-uid/' || md5(regexp_replace(uri, '[^/]*$', '') || '|' || coalesce(modality, ''));

create or replace macro is_blank(text) as coalesce(trim(text), '') = '';

-- The one value that is there, '' where all are empty, NULL where there is none or several.
create or replace macro agreed_text(x) as
case
    when min(nullif(x, '')) is null then min(x)
    when min(nullif(x, '')) = max(nullif(x, '')) then min(nullif(x, ''))
end;

create or replace macro varies_text(x) as
coalesce(min(nullif(x, '')) <> max(nullif(x, '')), false);

create or replace macro agreed_list(x) as
case
    when min(if(len(x) > 0, x, null)) is null then min(x)
    when min(if(len(x) > 0, x, null)) = max(if(len(x) > 0, x, null)) then min(if(len(x) > 0, x, null))
end;

create or replace macro varies_list(x) as
coalesce(min(if(len(x) > 0, x, null)) <> max(if(len(x) > 0, x, null)), false);

create or replace macro agreed_number(x) as if(min(x) = max(x), min(x), null);

create or replace macro varies_number(x) as coalesce(min(x) <> max(x), false);

-- Of a series' least and greatest value: whether they are one value, written or measured twice.
create or replace macro is_close(least_x, greatest_x) as
greatest_x - least_x <= agreement_share() * greatest(abs(least_x), abs(greatest_x));

-- b-value, s/mm2; GE adds 1e9 where it was calculated [dcm2niix].
create or replace macro b_value(standard, siemens, philips, uih, ge) as
coalesce(standard, siemens[1], philips[1], uih[1], fmod(ge[1], ge_b_value_offset()));

create or replace macro distinct_words(lists) as
coalesce(list_sort(list_distinct(flatten(list_filter(lists, lambda l: l is not null)))), []::varchar[]);

create or replace macro agreed_measure(least_x, greatest_x, middle) as
case
    when least_x = greatest_x then least_x
    when is_close(least_x, greatest_x) then middle
end;

create or replace macro several_values(least_x, greatest_x, x_values) as
case
    when least_x = greatest_x then [least_x]
    when least_x is not null then x_values[1:max_values()::bigint]
    else []
end;
