-- grain: one row per series, stack and slice location
-- meaning: its position, how many frames it has, and which attributes differ between these frames
-- source: rollup.distinct_frame, rollup.stack_orientation; frames closer than merge_distance_mm are
-- one location
create view rollup.slice_location as
with projected as (
    select
        t.*,
        s.stack,
        s.reference,
        normal_distance(s.reference, t.ImagePositionPatient) as d,
        row_distance(s.reference, t.ImagePositionPatient) as u,
        column_distance(s.reference, t.ImagePositionPatient) as v,
    from rollup.distinct_frame as t
    inner join rollup.stack_orientation as s
        on
            t.SeriesInstanceUID = s.SeriesInstanceUID
            and t.orientation_key = s.orientation_key
),

stepped as (
    select
        p.*,
        p.d - lag(p.d) over along > merge_distance_mm() as is_new,
    from projected as p
    window along as (partition by p.SeriesInstanceUID, p.stack order by p.d)
),

numbered as (
    select
        q.*,
        count(*) filter (where q.is_new)
            over (partition by q.SeriesInstanceUID, q.stack order by q.d asc) as location,
    from stepped as q
)

select
    n.SeriesInstanceUID,
    n.stack,
    n.location,
    count(*) as repeats,
    avg(n.d) as d,
    avg(n.u) as u,
    avg(n.v) as v,
    arg_min(n.ImagePositionPatient, n.content) as position,
    bool_or(n.has_duplicate) as has_duplicates,
    bool_or(n.is_contradicted) as has_contradiction,
    bool_or(n.is_ct) as is_ct,
    bool_or(n.has_time_points) as has_time_points,
    bool_or(n.has_cardiac_phases) as has_cardiac_phases,
    min(n.TemporalPositionIdentifier) <> max(n.TemporalPositionIdentifier)
    or min(n.TemporalPositionIndex) <> max(n.TemporalPositionIndex) as varies_time_point,
    min(n.AcquisitionTime) <> max(n.AcquisitionTime)
    or min(n.AcquisitionDateTime) <> max(n.AcquisitionDateTime)
    or min(n.FrameAcquisitionDateTime) <> max(n.FrameAcquisitionDateTime) as varies_time,
    min(n.TriggerTime) <> max(n.TriggerTime)
    or min(n.NominalCardiacTriggerDelayTime) <> max(n.NominalCardiacTriggerDelayTime)
        as varies_trigger,
    min(n.b) <> max(n.b) as varies_b,
    max(n.b) > 0 as is_diffusion,
    min(n.EchoTime) <> max(n.EchoTime) as varies_echo,
    min(n.InversionTime) <> max(n.InversionTime) or min(n.FlipAngle) <> max(n.FlipAngle)
        as varies_preparation,
    min(n.component) <> max(n.component) as varies_component,
    list_unique(list(hash(n.EchoTime, n.InversionTime, n.FlipAngle, n.component))) = count(*)
        as differs_by_physics,
    list_unique(list(n.AcquisitionNumber)) = count(*) as differs_by_acquisition,
    min(n.AcquisitionNumber) <> max(n.AcquisitionNumber) as varies_acquisition,
    list_unique(list(n.StackID)) = count(*) as differs_by_stack_id,
    min(n.StackID) <> max(n.StackID) as varies_stack_id,
from numbered as n
group by n.SeriesInstanceUID, n.stack, n.location;
