-- grain: one row per series, included or not
-- meaning: the series as `radnet-lake label` stored it; columns with a DICOM keyword have the
-- meaning of that attribute
-- source: stored.series
create view series as
select *
from stored.series;
comment on view series is 'every series: facts, geometry, five labels, excluded_by';
comment on column series.varying_keywords is
'attributes that are NULL here because the rows of the series differ';
comment on column series.image_types is 'distinct ImageType values, joined by a backslash';
comment on column series.n_studies is 'studies that use this series UID; more than 1 is wrong';
comment on column series.n_patients is 'patients that use this series UID; more than 1 is wrong';
comment on column series.n_frames is 'rows of instances';
comment on column series.n_instances is 'objects: a multi-frame object counts once';
comment on column series.last_harvested_at is 'when the youngest row was harvested';
comment on column series.acquisition_start_s is 'least AcquisitionTime, s';
comment on column series.acquisition_end_s is 'greatest AcquisitionTime, s';
comment on column series.RepetitionTime_values is 'distinct values, ms';
comment on column series.EchoTime_values is 'distinct values, ms';
comment on column series.InversionTime_values is 'distinct values, ms';
comment on column series.FlipAngle_values is 'distinct values, degrees';
comment on column series.b_values is 'distinct b-values, public or vendor''s own, s/mm2';
comment on column series.n_invalid_frames is 'frames without a valid plane';
comment on column series.stack_frames is 'frames of the main stack';
comment on column series.slice_count is 'distinct slice locations of the main stack';
comment on column series.slice_spacing_mm is
'distance of neighbouring locations along the normal, mm: extent by locations less one';
comment on column series.gap_min_mm is 'least gap between neighbouring locations, mm';
comment on column series.gap_max_mm is 'greatest gap between neighbouring locations, mm';
comment on column series.gap_deviation_mm is 'how far a gap is off slice_spacing_mm at most, mm';
comment on column series.shear_deg is
'angle between the stacking direction and the normal, degrees';
comment on column series.in_plane_shift_mm is
'how far a location lies off the straight line through the stack at most, mm';
comment on column series.first_position is
'ImagePositionPatient of the first location along the normal, mm LPS';
comment on column series.last_position is
'ImagePositionPatient of the last location along the normal, mm LPS';
comment on column series.n_stacks is 'stacks: frames that fit on one grid';
comment on column series.repeats_min is 'least number of frames at one location';
comment on column series.repeats_max is 'greatest number of frames at one location';
comment on column series.repeat_kind is
'what differs between frames at one location: temporal, cine, diffusion, multi_echo, ...';
comment on column series.geometry is 'regular, or what is wrong with the stack';
comment on column series.missing_slice_count is 'slices missing inside the stack';
comment on column series.is_salvageable is 'a split or resampling would give a volume';
comment on column series.salvage is 'how';
comment on column series.mosaic is 'each frame holds many slices as tiles';
comment on column series.effective_spacing_mm is 'slice spacing after resizing to 48 slices, mm';
comment on column series.effective_row_spacing_mm is 'distance of rows after resizing to 192, mm';
comment on column series.effective_column_spacing_mm is
'distance of columns after resizing to 192, mm';
comment on column series.obliquity_deg is 'angle between the normal and the nearest axis, degrees';
comment on column series.is_standard_view is 'rows and columns point the paper''s way';
comment on column series.is_unusual_position is 'prone or decubitus, by PatientPosition';
comment on column series.is_anisotropic_in_plane is 'resized pixels are far from square';
comment on column series.is_face_risk is 'thin head slices: a face could be rendered';
comment on column series.excluded_by is 'NULL = in; else the first reason in our order';
comment on column series.excluded_by_in_paper_order is
'NULL = in; else the first reason in the paper''s printed order';
comment on column series.exclusions is 'all reasons that fire';
comment on column series.exclusion_evidence is
'each rule that excludes, with its reason and what was found';
comment on column series.label_mode is 'paper, default or strict';
comment on column series.rule_set is 'hash of the rules that made this row';
comment on column series.labelled_at is 'when, UTC';
comment on column series.sequence is 'CT, or the class of MR sequence; NULL = unknown';
comment on column series.sequence_rule is 'the rule that decided; see rule_use';
comment on column series.sequence_tier is
'how strong its evidence is: site, coded, numeric, series_text, ...';
comment on column series.sequence_evidence is 'JSON: DICOM keyword to raw value';
comment on column series.sequence_conflict is 'other evidence contradicts it';
comment on column series.sequence_losers is 'rules that fired and were outranked';
comment on column series."view" is 'axial, coronal, sagittal, oblique; NULL = unknown';
comment on column series.view_rule is 'the rule that decided; see rule_use';
comment on column series.view_tier is
'how strong its evidence is: site, coded, numeric, series_text, ...';
comment on column series.view_evidence is 'JSON: DICOM keyword to raw value';
comment on column series.view_conflict is 'other evidence contradicts it';
comment on column series.view_losers is 'rules that fired and were outranked';
comment on column series.contrast is 'contrast agent in the vessels; NULL = unknown';
comment on column series.contrast_rule is 'the rule that decided; see rule_use';
comment on column series.contrast_tier is
'how strong its evidence is: site, coded, numeric, series_text, ...';
comment on column series.contrast_evidence is 'JSON: DICOM keyword to raw value';
comment on column series.contrast_conflict is 'other evidence contradicts it';
comment on column series.contrast_losers is 'rules that fired and were outranked';
comment on column series.coverage is
'which of the nine targets lie in the scan entirely; empty = none; NULL = unknown';
comment on column series.coverage_rule is 'the rule that decided; see rule_use';
comment on column series.coverage_tier is
'how strong its evidence is: site, coded, numeric, series_text, ...';
comment on column series.coverage_evidence is 'JSON: DICOM keyword to raw value';
comment on column series.coverage_conflict is 'other evidence contradicts it';
comment on column series.coverage_losers is 'rules that fired and were outranked';
comment on column series.time_series is 'dynamic or one of a split dynamic; NULL = unknown';
comment on column series.time_series_rule is 'the rule that decided; see rule_use';
comment on column series.time_series_tier is
'how strong its evidence is: site, coded, numeric, series_text, ...';
comment on column series.time_series_evidence is 'JSON: DICOM keyword to raw value';
comment on column series.time_series_conflict is 'other evidence contradicts it';
comment on column series.time_series_losers is 'rules that fired and were outranked';
comment on column series.x_geom is 'inconsistent or invalid positions or spacing';
comment on column series.x_few is 'fewer than 16 slice locations';
comment on column series.x_nodesc is 'no series description';
comment on column series.x_seq is 'an MR sequence that is none of the paper''s';
comment on column series.x_time is 'time series';
comment on column series.x_stir is 'STIR';
comment on column series.x_spacing is 'effective spacing above 15 mm';
