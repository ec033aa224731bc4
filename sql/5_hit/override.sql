-- grain: one row per series, rule and value; one value, unless protocols contradict each other
-- meaning: labels that people set by overrides and protocols; ranks 0 and 10 beat every rule
-- conflict: protocols that match one series with different values: no answer
-- source: overrides/*.csv and protocols/*.csv of the lake; extent gates of evidence.coverage
create view hit.override as
with person as (
    select
        o.SeriesInstanceUID,
        o.label,
        o.value,
        json_object('who', o.who, 'when', o."when", 'why', o.why) as evidence
    from site.overrides as o
    inner join stage.series as s on o.SeriesInstanceUID = s.SeriesInstanceUID
),

matched as (
    select distinct
        p.*,
        s.SeriesInstanceUID,
        if(w.match_on = 'ProcedureCode', 'ProcedureCodeSequence', w.match_on) as keyword,
        if(w.match_on = 'ProcedureCode', to_json(s.ProcedureCodeSequence), to_json(w.text)) as raw
    from site.protocol_text as t
    inner join site.words as w on t.match_on = w.match_on and t.text = w.text
    inner join site.protocols as p on t.number = p.number
    inner join stage.series as s on w.SeriesInstanceUID = s.SeriesInstanceUID
    where
        (p.modality is null or p.modality = s.Modality)
        and (p.valid_from is null or p.valid_from <= s.StudyDate)
        and (p.valid_to is null or p.valid_to >= s.StudyDate)
),

meant as (
    unpivot matched
    on columns(label_names())
    into name label value stated
),

gate as (
    select r.*
    from rule.regions as r
    inner join rule.run as run on list_contains(string_split(r.modes, '|'), run.mode)
    where r.region = 'any'
),

gates as (
    select list(gate) as candidates
    from gate
),

-- Labels that a stack is too short for, whatever its protocol is called.
short as (
    select
        m.SeriesInstanceUID,
        m.number,
        short_labels(g.candidates, e.box) as labels
    from meant as m
    inner join evidence.coverage as e on m.SeriesInstanceUID = e.SeriesInstanceUID
    cross join gates as g
    where m.label = 'coverage' and not m.trust_extent
),

gated as (
    select
        m.*,
        coalesce(h.labels, []) as too_short
    from meant as m
    left join short as h
        on
            m.SeriesInstanceUID = h.SeriesInstanceUID
            and m.number = h.number
            and m.label = 'coverage'
),

gated_values as (
    select
        *,
        array_to_string(
            list_filter(string_split(stated, '|'), lambda l: not list_contains(too_short, l)), '|'
        ) as value,
        list_filter(string_split(stated, '|'), lambda l: list_contains(too_short, l)) as cut
    from gated
),

-- All protocols that match, so that a contradiction shows both.
answer as (
    select
        SeriesInstanceUID,
        label,
        list_sort(list_distinct(list(value))) as answers,
        map_from_entries(list_distinct(list(struct_pack(k := keyword, v := raw)))) as texts,
        json_object(
            'protocol', string_agg(protocol, '; ' order by number),
            'says', string_agg(if(stated = '', 'none', stated), '; ' order by number),
            'too_short', nullif(list_sort(list_distinct(flatten(list(cut)))), []),
            'approved_by', string_agg(approved_by, '; ' order by number),
            'when', string_agg("when"::varchar, '; ' order by number),
            'why', string_agg(why, '; ' order by number)
        ) as sources
    from gated_values
    group by all
),

protocol as (
    select
        SeriesInstanceUID,
        label,
        json_merge_patch(to_json(texts), sources) as evidence,
        nullif(unnest(answers), 'unknown') as value
    from answer
)

select p.SeriesInstanceUID, r.rule_id, p.value, p.evidence
from person as p
inner join rule.rules as r on p.label = r.label and starts_with(r.rule_id, 'SITE-SERIES-')
union all by name
select p.SeriesInstanceUID, r.rule_id, p.value, p.evidence
from protocol as p
inner join rule.rules as r on p.label = r.label and starts_with(r.rule_id, 'SITE-PROTOCOL-');
