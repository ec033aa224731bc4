-- grain: one row per series that may become a volume
-- meaning: the training set; with retry also series that are excluded only because their pixels
-- made no volume: that alone must not keep them out for ever
create temp macro preprocess_candidates(retry) as table
    select *
    from training_set
    union all by name
    select
        SeriesInstanceUID,
        sequence,
        "view",
        contrast,
        coverage,
        effective_spacing_mm,
        StudyInstanceUID,
        PatientID,
        collection,
        Modality,
        slice_count,
        slice_spacing_mm,
    from series
    where
        retry
        and exclusions = ['pixel']
        and SeriesInstanceUID in (select SeriesInstanceUID from volumes);
