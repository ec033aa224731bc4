-- grain: one row per label and value
-- meaning: series of the training set in each part (Table A3 of the paper)
select
    label,
    value,
    train,
    validation,
    test,
    total,
from label_counts
where division = 'hash';
