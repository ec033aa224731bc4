-- grain: one row per series and view rule that fired
-- meaning: the view by the orientation of the planes; words of the description only confirm it
-- conflict: a word that names another plane than the orientation: a reformat named after its source
-- source: paper 2.1.2; DICOM PS3.3 C.7.6.2
create view hit.view as
select
    SeriesInstanceUID, 'VIEW-NORMAL' as rule_id, nearest_view(ImageOrientationPatient) as value,
    to_json({ 'ImageOrientationPatient': ImageOrientationPatient }) as evidence
from stage.series
where len(ImageOrientationPatient) = 6
union all by name
select
    SeriesInstanceUID, 'VIEW-MIXED' as rule_id, null as value,
    to_json({ 'n_stacks': n_stacks }) as evidence
from stage.series
where geometry = 'mixed_orientation' and not is_salvageable
union all by name
select
    SeriesInstanceUID, 'VIEW-ROUNDED' as rule_id, rounded_view(ImageOrientationPatient) as value,
    to_json({ 'ImageOrientationPatient': ImageOrientationPatient }) as evidence
from stage.series
where len(ImageOrientationPatient) = 6
union all by name
select
    s.SeriesInstanceUID,
    'VIEW-WORD' as rule_id,
    case
        when t.axial is not null then 'axial'
        when t.coronal is not null then 'coronal'
        else 'sagittal'
    end as value,
    to_json({ 'SeriesDescription': s.SeriesDescription }) as evidence
from stage.series as s
inner join text.description as t on s.SeriesDescription = t.text
where len(list_filter([t.axial, t.coronal, t.sagittal], lambda keyword: keyword is not null)) = 1;
