-- grain: pure functions
-- meaning: the view of an orientation (list of 6: row cosines, column cosines)
-- source: DICOM PS3.3 C.7.6.2; the largest component of the normal above a threshold, as PixelMed
create or replace macro plane_normal(o) as
[o[2] * o[6] - o[3] * o[5], o[3] * o[4] - o[1] * o[6], o[1] * o[5] - o[2] * o[4]];

create or replace macro nearest_view(o) as
case
    when abs(plane_normal(o)[3]) >= view_cosine() then 'axial'
    when abs(plane_normal(o)[2]) >= view_cosine() then 'coronal'
    when abs(plane_normal(o)[1]) >= view_cosine() then 'sagittal'
    when o is not null then 'oblique'
end;

-- Rows and columns point the way that the paper's exact values do.
create or replace macro is_standard(o) as
case nearest_view(o)
    when 'axial' then o[1] >= view_cosine() and o[5] >= view_cosine()
    when 'coronal' then o[1] >= view_cosine() and o[6] <= -view_cosine()
    when 'sagittal' then o[2] >= view_cosine() and o[6] <= -view_cosine()
end;

create or replace macro rounded_view(o) as
case list_transform(o, lambda c: round(c)::integer)
    when [1, 0, 0, 0, 1, 0] then 'axial'
    when [1, 0, 0, 0, 0, -1] then 'coronal'
    when [0, 1, 0, 0, 0, -1] then 'sagittal'
end;

create or replace macro obliquity_deg(o) as
degrees(acos(least(1, list_max(list_transform(plane_normal(o), lambda c: abs(c))))));
