-- grain: one row per series; where a file has no SeriesInstanceUID, one row per file
-- meaning: a whole header as DICOM JSON; header->'$.00081030.Value[0]' is its StudyDescription
-- source: stored.series_headers; the first instance of the series by its URI
create view series_headers as
with live as (
    select
        h.uri,
        h.harvested_at,
        h.StudyInstanceUID,
        h.SeriesInstanceUID
    from stored.series_headers as h
    anti join stored.removals as r
        on
            coalesce(h.archive_uri, h.uri) = r.uri
            and h.harvested_at = r.removed_harvested_at
            and r.reason = 'changed'
),

chosen as (
    select
        v.uri,
        v.harvested_at
    from live as v
    qualify
        row_number() over (
            partition by
                v.StudyInstanceUID,
                v.SeriesInstanceUID,
                if(coalesce(v.SeriesInstanceUID, '') = '', v.uri, '')
            order by v.harvested_at, v.uri
        ) = 1
)

select h.* replace (h.header::json as header)
from stored.series_headers as h
semi join chosen as c
    on h.uri = c.uri and h.harvested_at = c.harvested_at;
