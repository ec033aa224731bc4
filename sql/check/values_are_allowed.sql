-- grain: one row per series with a value that no label has
select SeriesInstanceUID
from labelled.series
where
    sequence not in (
        'CT', 'T1-SE', 'T2-SE', 'T1-FLAIR', 'T2-FLAIR', 'STIR', 'PD-SE', 'GR', 'EP', 'DWI', 'ADC',
        'PERFUSION', 'MRA', 'FMRI', 'SWI', 'SPECTRO', 'LOCALIZER', 'DERIVED', 'IR-OTHER', 'OTHER'
    )
    or "view" not in ('axial', 'coronal', 'sagittal', 'oblique')
    or not list_has_all(
        [
            'brain', 'upper_head_neck', 'lower_head_neck', 'lung', 'breast', 'liver', 'kidney',
            'intestine', 'pelvis'
        ],
        coalesce(coverage, [])
    );
