-- grain: pure function
-- meaning: a description as upper-case tokens between single blanks, for lexicon/sequence.csv:
--          T1 and T2 stand alone (AXIALT2FLAIR), T2* is T2STAR, vertebrae T1 to T12 and lengths go
-- source: descriptions of public archives; vendors glue words, and numbers look like weightings
create or replace macro split_case(x) as
regexp_replace(replace(shorten(x), '_', ' '), '(\p{Ll})(\p{Lu})', '\1 \2', 'g');

-- AW workstations name an image by its sources: (series/image)-(series/image).
create or replace macro mark_arithmetic(x) as
regexp_replace(
    regexp_replace(x, '\)\s*-\s*\(', ' IMAGEMINUS ', 'g'), '\)\s*\+\s*\(', ' IMAGEPLUS ', 'g'
);

-- Levels of the spine and visits of a trial are no weightings: C7-T1, T2 T1 T6, TO T1, TrT1:
create or replace macro drop_vertebrae(x) as
regexp_replace(
    regexp_replace(
        x,
        '\b(?:C[1-7]|T(?:1[0-2]|[1-9]))\s?(?:-|/|\bTO\b|\bTHRU\b)\s?'
        || '(?:T(?:1[0-2]|[1-9])|L[1-5]|S1)\b|\bTO T(?:1[0-2]|[1-9])\b|\bTR T[0-3]\s?:',
        ' ', 'g'
    ),
    '\b(T[12]) T1 T(?:1[0-2]|[3-9])\b', '\1', 'g'
);

-- The Cyrillic letter of a weighting is taken for the Latin one, and T-1 for T1.
create or replace macro mark_star(x) as
regexp_replace(
    regexp_replace(x, 'Т-?([12])|\bT-([12])\b', 'T\1\2', 'g'),
    '\b([TR])([12])W?(?:\*|[ -]?STAR\b)', ' \1\2STAR ', 'g'
);

create or replace macro drop_measures(x) as
regexp_replace(x, '[0-9]+(?:[.,][0-9]+)?\s?(?:MM|CM|ML|CC)\b', ' ', 'g');

create or replace macro part_weighting(x) as
regexp_replace(
    x,
    '\b([0-9]?|[A-Z0-9]*(?:AX|AXL|AXI|AXIAL|SAG|SG|SAGITTAL|COR|CORONAL|TRA|TRANS|OBL|FSE|TSE|FS|'
    || 'FLAIR|STIR|SENS|[23]D))T([12])(?:WI|WE|W)?((?:STAR|[A-RT-Z]|S[A-SU-Z]|[23]D)[A-Z0-9]*)?\b',
    ' \1 T\2 \3 ', 'g'
);

create or replace macro normalise_sequence(x) as
' ' || trim(regexp_replace(
    regexp_replace(
        regexp_replace(
            part_weighting(regexp_replace(
                drop_measures(drop_vertebrae(mark_star(mark_arithmetic(fold(split_case(x)))))),
                '[^\p{L}\p{N}+]+|(\+)', ' \1 ', 'g'
            )),
            '\bT([12]) STAR\b', ' T\1STAR ', 'g'
        ),
        '([0-9])(AX|SAG|COR|TRA)\b|\b(AX|SAG|COR|TRA)([0-9])', '\1\3 \2\4', 'g'
    ),
    '\s+', ' ', 'g'
)) || ' ';

-- The ImageTypes of a series as one text, for text.image_type.
create or replace macro join_types(image_types, image_type) as
array_to_string(coalesce(nullif(image_types, []), [array_to_string(image_type, '\')]), '|');

-- Evidence of a word: where it stands, the whole text, the word.
create or replace macro word_evidence(keyword, text, word) as
json_object(keyword::varchar, text, 'word', word);
