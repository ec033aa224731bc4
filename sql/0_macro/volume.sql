-- grain: pure functions
-- meaning: what resizing to 48 x 192 x 192 makes of a stack of n slices, spacing in mm
-- source: paper 2.1.5; more than 48 slices are resized over the same extent, fewer are padded
create or replace macro resized_spacing_mm(n, spacing_mm) as
if(n >= volume_slices(), spacing_mm * n / volume_slices(), spacing_mm);

create or replace macro resized_pixel_spacing_mm(n, spacing_mm) as spacing_mm * n / volume_pixels();

create or replace macro is_ct_class(uid) as
uid in ('1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.5.1.4.1.1.2.1', '1.2.840.10008.5.1.4.1.1.2.2');

create or replace macro is_mr_class(uid) as
uid in ('1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.5.1.4.1.1.4.1', '1.2.840.10008.5.1.4.1.1.4.4');
