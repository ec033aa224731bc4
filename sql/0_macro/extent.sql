-- grain: pure functions
-- meaning: how much of the body a stack shows: along it, from side to side, from front to back, mm
-- source: DICOM PS3.3 C.7.6.2; each direction of the stack counts for the axis it is nearest
create or replace macro code_meanings(codes) as
nullif(array_to_string(list_transform(codes, lambda c: c.CodeMeaning), ' '), '');

-- Siemens writes StudyDescription as menu folder ^ protocol.
create or replace macro menu_protocol(x) as
if(contains(x, '^'), substr(x, instr(x, '^') + 1), x);

create or replace macro menu_folder(x) as
if(contains(x, '^'), left(x, instr(x, '^') - 1), null);

-- axis: 1 side to side, 2 front to back, 3 along; o: list of 6; slab_mm: through the slices.
create or replace macro body_extent_mm(o, axis, rows_mm, columns_mm, slab_mm) as
case
    -- the normal's square, for the three are perpendicular and of unit length
    when
        1 - o[axis] * o[axis] - o[axis + 3] * o[axis + 3]
        >= greatest(o[axis] * o[axis], o[axis + 3] * o[axis + 3])
        then slab_mm
    when abs(o[axis]) >= abs(o[axis + 3]) then columns_mm
    else rows_mm
end;

-- A gate fails only on an extent that is known. scale: of a child.
create or replace macro is_below(extent_mm, least_mm, scale) as
coalesce(extent_mm < least_mm * scale, false);

-- c: a candidate of text.region; b: a box of evidence.coverage. Some labels are only believed of
-- stacks of one view.
create or replace macro is_too_short(c, b) as
coalesce(b.view <> c.only_view, false)
-- one kidney is not both
or (b.is_one_side and c.label = 'kidney')
or is_below(b.height_mm, c.min_height_mm, b.scale)
or is_below(
    b.width_mm, if(b.view = 'sagittal', c.min_slab_width_mm, c.min_width_mm), b.scale
)
or is_below(
    b.depth_mm, if(b.view = 'coronal', c.min_slab_depth_mm, c.min_depth_mm), b.scale
);

create or replace macro covered_labels(candidates, b) as
list_transform(
    list_filter(coalesce(candidates, []), lambda c: not is_too_short(c, b)), lambda c: c.label
);

create or replace macro short_labels(candidates, b) as
list_transform(
    list_filter(coalesce(candidates, []), lambda c: is_too_short(c, b)), lambda c: c.label
);

-- DICOM age string (nnnY, nnnM, nnnW, nnnD): gates are an adult's; zero is a de-identifier's.
create or replace macro body_scale(age) as
if(
    right(age, 1) = 'Y' and try_cast(left(age, -1) as integer) between 1 and child_age_years() - 1
    or right(age, 1) in ('M', 'W', 'D') and try_cast(left(age, -1) as integer) > 0,
    child_scale(),
    1.0
)::double;

-- t: the regions of a text in one modality (text.region); b: a box of evidence.coverage. The stack
-- may be too short for one label, or for all regions of the text together.
create or replace macro read_regions(t, b) as
{
    'words': t.words,
    'regions': coalesce(t.regions, []),
    'labels': covered_labels(t.candidates, b),
    'too_short': short_labels(t.candidates, b),
    'is_one_station': t.span_mm is null,
    'is_whole': not is_below(b.height_mm, t.span_mm, b.scale)
};

-- What a person who reviews should look at.
create or replace macro coverage_flags(labels, b) as
list_filter([
    if(list_contains(labels, 'pelvis') and b.height_mm < pelvis_whole_mm(), 'partial', null),
    if(
        labels = ['brain'] and b.height_mm >= long_head_mm()
        or labels = ['lung'] and b.height_mm >= long_chest_mm()
        or labels = ['liver', 'kidney'] and b.height_mm >= long_abdomen_mm(),
        'extent_exceeds_text',
        null
    )
], lambda f: f is not null);

create or replace macro coverage_evidence(keyword, text, found, labels, b) as
json_object(
    keyword, text,
    'words', found.words,
    'regions', found.regions,
    'too_short', found.too_short,
    'flags', coverage_flags(labels, b),
    'height_mm', round(b.height_mm),
    'width_mm', round(b.width_mm),
    'depth_mm', round(b.depth_mm)
);

create or replace macro join_labels(labels) as array_to_string(labels, '|');
