-- grain: pure functions
-- meaning: planes of frames in space. o: row and column cosines, 6; p: a position, mm; LPS
-- source: DICOM PS3.3 C.7.6.2; vectors are taken at unit length, for files round them
create or replace macro row_length(o) as sqrt(o[1] * o[1] + o[2] * o[2] + o[3] * o[3]);

create or replace macro column_length(o) as sqrt(o[4] * o[4] + o[5] * o[5] + o[6] * o[6]);

create or replace macro row_dot_column(o) as o[1] * o[4] + o[2] * o[5] + o[3] * o[6];

-- A frame that can be placed: s is PixelSpacing; NaN and infinity fail every comparison here.
create or replace macro is_plane(o, p, s, n_rows, n_columns) as
coalesce(
    len(o) = 6 and len(p) = 3 and len(s) = 2
    and abs(row_length(o) - 1) <= unit_length_tolerance()
    and abs(column_length(o) - 1) <= unit_length_tolerance()
    and abs(row_dot_column(o)) <= right_angle_tolerance()
    and isfinite(p[1] + p[2] + p[3])
    and s[1] > 0 and s[2] > 0 and isfinite(s[1] + s[2])
    and n_rows >= min_pixels() and n_columns >= min_pixels(),
    false
);

-- Along the normal, which is row x column; along the rows; along the columns.
create or replace macro normal_distance(o, p) as
(
    p[1] * (o[2] * o[6] - o[3] * o[5])
    + p[2] * (o[3] * o[4] - o[1] * o[6])
    + p[3] * (o[1] * o[5] - o[2] * o[4])
)
/ sqrt(
    (o[2] * o[6] - o[3] * o[5]) * (o[2] * o[6] - o[3] * o[5])
    + (o[3] * o[4] - o[1] * o[6]) * (o[3] * o[4] - o[1] * o[6])
    + (o[1] * o[5] - o[2] * o[4]) * (o[1] * o[5] - o[2] * o[4])
);

create or replace macro row_distance(o, p) as
(p[1] * o[1] + p[2] * o[2] + p[3] * o[3]) / row_length(o);

create or replace macro column_distance(o, p) as
(p[1] * o[4] + p[2] * o[5] + p[3] * o[6]) / column_length(o);

create or replace macro is_same_orientation(a, b) as
1 - (a[1] * b[1] + a[2] * b[2] + a[3] * b[3]) / (row_length(a) * row_length(b))
<= orientation_tolerance()
and 1 - (a[4] * b[4] + a[5] * b[5] + a[6] * b[6]) / (column_length(a) * column_length(b))
<= orientation_tolerance();

create or replace macro is_same_spacing(a, b) as
abs(a[1] - b[1]) <= pixel_spacing_tolerance() * b[1]
and abs(a[2] - b[2]) <= pixel_spacing_tolerance() * b[2];

-- How far a gap may be from the mean one, mm.
create or replace macro gap_tolerance(mean) as
greatest(gap_share() * mean, gap_tolerance_mm());

-- Of two rows of rollup.stack_orientation: their frames lie on one grid within tolerance.
create or replace macro is_same_stack(a, b) as
a.frame_of_reference = b.frame_of_reference and a.matrix = b.matrix
and is_same_orientation(a.o, b.o) and is_same_spacing(a.s, b.s);

create or replace macro hypotenuse(x, y) as sqrt(x * x + y * y);

-- Of the angle between the normal and a line that goes u and v aside over d.
create or replace macro slope_cosine(u, v, d) as
coalesce(d / nullif(sqrt(u * u + v * v + d * d), 0), 1);
