-- grain: pure function
-- meaning: a description in upper case without accents and outer blanks, for description.csv
-- source: placeholders are whole texts
create or replace macro normalise_description(x) as fold(trim(x, ' ' || chr(0)));
