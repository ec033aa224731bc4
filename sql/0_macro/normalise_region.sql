-- grain: pure function
-- meaning: a text as upper-case words of letters between single blanks, for lexicon/region.csv
-- source: rules of matching in three scripts; kernels (Br38), product names (AiCE) and table
-- positions (head first) read as regions; C/A/P and A/P are regions written as signs
create or replace macro normalise_region(x) as
' ' || trim(regexp_replace(replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    regexp_replace(
        fold(regexp_replace(
            regexp_replace(
                shorten(coalesce(x, '')),
                'aice|idose|imar|efov|(head|feet)[ _-]?first|_', ' ', 'gi'
            ),
            '(\p{Ll})(\p{Lu})', '\1 \2', 'g'
        )),
        '\b(B[RLVFQU]?|HR|QR|[IHJTUD]|FC|UB|SA|HV)\d{2,3}[A-Z]?\b', ' ', 'g'
    ),
    '\b(N?)C ?/ ?A ?/ ?P\b|\b(N?)C ?- ?A ?- ?P\b|\b(N?)C ?[+&,. ] ?A ?[+&,. ] ?P\b',
    ' \1\2\3CAP ', 'g'
), '\bT ?[/&+. -] ?A ?[/&+. -] ?P\b', ' TAP ', 'g'),
'\bA ?[/&] ?P\b|\bA[ -]P\b', ' APSIGN ', 'g'),
'[^\p{L}]+', ' ', 'g'), 'GALL BLADDER', 'GALLBLADDER'), '\s+', ' ', 'g')) || ' ';
