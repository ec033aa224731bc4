-- grain: pure functions, and aggregates over the rows of a series
-- meaning: the name of a series, and values that its rows agree on
-- source: DICOM PS3.3 C.7.3.1; rows without a value do not contradict

-- A series' name: its UID, or one per folder and modality where files have none.
create or replace macro folder_key(uri, modality) as
'no-uid/' || md5(regexp_replace(uri, '[^/]*$', '') || '|' || coalesce(modality, ''));

create or replace macro is_blank(text) as coalesce(trim(text), '') = '';

-- Whether a value is present but empty: '' of text, [] of lists.
create or replace macro is_void(x) as x::text in ('', '[]');

-- The one value of all rows that have one; '' or [] where those are all empty; else NULL.
create or replace macro agreed(x) as
case
    when min(if(is_void(x), null, x)) is null then min(x)
    when min(if(is_void(x), null, x)) = max(if(is_void(x), null, x))
        then min(if(is_void(x), null, x))
end;

-- Of a series' least and greatest value: whether they are one value, written or measured twice.
create or replace macro is_close(least_x, greatest_x) as
greatest_x - least_x <= agreement_share() * greatest(abs(least_x), abs(greatest_x));

-- b-value, s/mm2; GE adds 1e9 where it was calculated [dcm2niix].
create or replace macro b_value(standard, siemens, philips, uih, ge) as
coalesce(standard, siemens[1], philips[1], uih[1], fmod(ge[1], ge_b_value_offset()));

create or replace macro distinct_texts(lists) as
coalesce(
    list_sort(list_distinct(flatten(list_filter(lists, lambda l: l is not null)))), []::varchar[]
);

-- The value of all rows, or the middle one where they are close.
create or replace macro agreed_number(x) as
case
    when min(x) = max(x) then min(x)
    when is_close(min(x), max(x)) then median(x)
end;

-- One image holds all slices side by side: Siemens mosaic, UIH grid [dcm2niix].
create or replace macro is_tiled(image_type) as
list_has_any(string_split(image_type, '\'), ['MOSAIC', 'VFRAME']);

create or replace macro distinct_values(x) as
(list(distinct x order by x) filter (where x is not null))[1:max_values()::bigint];

create or replace macro list_of_one(x) as if(x is null, [], [x]);
