-- grain: pure functions
-- meaning: text for lexicon/contrast.csv: upper-case words between single blanks, signs as words
-- meaning: C+ +C I+ -> CPLUS, C- S/C -> CMINUS, +/- -> PLUSMINUS, W/O -> WO, WITH W/ -> W
-- source: signs of vendors and languages met in public archives

-- NonContrast -> Non Contrast; before the upper case, and not beyond what fold() keeps
create or replace macro split_camel_case(x) as
regexp_replace(shorten(coalesce(x, '')), '(\p{Ll})(\p{Lu})', '\1 \2', 'g');

-- lengths go first: 2.5 MM is no time, 10 CM no contrast medium
create or replace macro drop_lengths(x) as
regexp_replace(x, '[0-9]+([.,][0-9]+)?\s?[CM]M\b|\bAR ?\(CM\)', ' ', 'g');

-- NON & ENH is both, NON ENH is without
create or replace macro spell_and(x) as
regexp_replace(replace(x, '&', ' AND '), '\bWANDW', 'W AND W', 'g');

create or replace macro spell_without(x) as
regexp_replace(
    regexp_replace(
        regexp_replace(x, '\bW\s?[/.-]?\s?O(UT)?\b|\bW/?0(\s|$)', ' WO ', 'g'),
        '\bW\s?/\s?O(C|CON\w*|IV|GAD\w*)\b|\bWOC\b', ' WO \1 ', 'g'
    ),
    '\bW\s?I?TH?-?\s?OUT?(\b|C\w*)', ' WO ', 'g'
);

create or replace macro spell_with(x) as
regexp_replace(
    regexp_replace(
        regexp_replace(x, '\bW\s?/\s?C\b', ' CPLUS ', 'g'), '\bWITH\b|\bW\s?/', ' W ', 'g'
    ), '\b(WO|NO) (ORAL|PO) (OR|AND|NOR)\s+', ' WO ', 'g'
);

-- what a sign must not be taken from: C-SPINE, C-ARM, C-A-P; GE's (series/image)-(series/image)
create or replace macro spell_names(x) as
regexp_replace(
    regexp_replace(
        regexp_replace(x, '\bC\s?-\s?(SP|ARM|ARC|A\s?-)', ' C\1', 'g'),
        '\([0-9]+/[0-9]+/[0-9.]+\)\s?-\s?\(', ' IMAGEDIFFERENCE ', 'g'
    ),
    '\bCONTRAST\s?/\s?BOLUS AGENT\s?:', ' CBA ', 'g'
);

-- T/S/C are three planes, S/C is sem contraste
-- \x{0421} is the Cyrillic letter that looks like C
create or replace macro spell_plus(x) as
regexp_replace(
    regexp_replace(
        regexp_replace(
            regexp_replace(x, '\+\s?/\s?-|-\s?/\s?\+|±|\+-|\bC-C\+', ' PLUSMINUS ', 'g'),
            '(^|[^/A-Z0-9])C\s?/\s?(CONT\w*|CIV|GAD\w*|INJ\w*|I?V|C)($|[^/A-Z])', ' CPLUS \3', 'g'
        ),
        '(^|[^A-Z])[C\x{0421}]\s?\+|\b(GD|GAD|KM|CM|IV|INJ|PDC|MDC|I)\s?\+|^\s?\++\s?$',
        ' CPLUS ', 'g'
    ),
    '\+\s?((C|GD|GADO?|CM|KM|K|IV|INJ|PDC|MDC|SC|SK|CE|CONT?|CONTRAST\w*)\b|\x{0421})',
    ' CPLUS ', 'g'
);

create or replace macro spell_minus(x) as
regexp_replace(
    regexp_replace(
        regexp_replace(
            x, '(^|[^/A-Z0-9])S\s?/\s?(CONT\w*|CIV|GAD\w*|INJ\w*|I?V|C)($|[^/A-Z])',
            ' CMINUS \3', 'g'
        ),
        '(^|[^A-Z0-9])[C\x{0421}]-(\s|$|[^A-Z0-9])|(^|\s)-\s?C\b|\bC MINUS\b', ' CMINUS \2', 'g'
    ),
    '\b(GD|GAD|KM|CM|IV|INJ|PDC|MDC)-(\s|$|[^A-Z0-9])|\bI\s?-(\s|$)', ' CMINUS \2', 'g'
);

create or replace macro normalise_contrast(x) as
' ' || trim(regexp_replace(
    spell_minus(spell_plus(spell_names(spell_with(spell_without(spell_and(drop_lengths(
        replace(fold(split_camel_case(x)), '_', ' ')
    ))))))), '[^\p{L}\p{N}]+', ' ', 'g'
)) || ' ';
