-- grain: pure function
-- meaning: a description as upper-case words of letters between single blanks, for lexicon/view.csv
-- source: T1_ax, AX3D and MPRcor must all show their plane
create or replace macro normalise_view(x) as
' ' || trim(regexp_replace(regexp_replace(fold(x), '[^\p{L}]+', ' ', 'g'), '\s+', ' ', 'g')) || ' ';
