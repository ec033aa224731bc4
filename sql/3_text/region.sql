-- grain: one row per distinct text that may name a part of the body
-- meaning: the words that the text holds, the regions that they name in CT and in MR, and the
-- labels of these regions, each with its gate in mm; span_mm: least height that shows them all
-- source: lexicon/region.csv, regions.csv
create view text.region as
with texts as (
    select distinct
        unnest([
            SeriesDescription,
            ProtocolName,
            StudyDescription,
            menu_protocol(StudyDescription),
            menu_folder(StudyDescription),
            PerformedProcedureStepDescription,
            code_meanings(ProcedureCodeSequence),
            code_meanings(AnatomicRegionSequence),
            BodyPartExamined,
            collection
        ]) as text
    from stage.series
    union
    select location
    from rule.collections
),

plain as (
    select
        text,
        drop_region_noise(normalise_region(text)) as normalised,
    from texts
    where text is not null
),

-- Taken out first, because parts of them would match another region: spine, whole body, head and
-- neck.
inner_words as (
    select
        text,
        normalised,
        find_region_torso(normalised) as torso,
        find_region_vertex(drop_region_torso(normalised)) as vertex,
        drop_region_whole_body(drop_region_vertex(drop_region_torso(normalised))) as parts,
    from plain
),

part_words as (
    select
        text,
        normalised,
        torso,
        vertex,
        drop_region_head_neck(drop_region_spine(parts)) as parts,
        find_region_spine(parts) as spine,
        find_region_head_neck(drop_region_spine(parts)) as head_neck,
    from inner_words
),

found as (
    select
        text,
        spine,
        head_neck,
        torso,
        vertex,
        find_region_whole_body(normalised) as whole_body,
        find_region_pet(normalised) as pet,
        find_region_brain(parts) as brain,
        find_region_slab(parts) as slab,
        find_region_face(parts) as face,
        find_region_neck(parts) as neck,
        find_region_larynx(parts) as larynx,
        find_region_thoracic(parts) as thoracic,
        find_region_chest(parts) as chest,
        coalesce(find_region_embolism(parts), find_region_gated(normalised)) as embolism,
        find_region_lung(parts) as lung,
        find_region_lung_base(parts) as lung_base,
        find_region_heart(parts) as heart,
        find_region_breast(parts) as breast,
        find_region_cap(parts) as cap,
        find_region_chest_abdomen(parts) as chest_abdomen,
        find_region_lower_abdomen(parts) as lower_abdomen,
        find_region_abdomen(drop_region_lower_abdomen(parts)) as abdomen,
        find_region_kidney(drop_region_kidney_to_pelvis(parts)) as kidney,
        find_region_kidney_to_pelvis(parts) as kidney_to_pelvis,
        find_region_abdomen_pelvis(parts) as abdomen_pelvis,
        find_region_ap(parts) as ap,
        find_region_pelvis(parts) as pelvis,
        find_region_pelvic_organ(parts) as pelvic_organ,
        find_region_extremity(parts) as extremity,
        find_region_intervention(drop_region_after(normalised)) as intervention,
        find_region_monitor(normalised) as monitor,
        find_region_sheet(normalised) as sheet,
        find_region_mrcp(normalised) as mrcp,
        find_region_angio(normalised) as angio,
        find_region_one_side(normalised) as one_side,
        find_region_brain_habit(normalised) as brain_habit,
        find_region_breast_habit(normalised) as breast_habit,
    from part_words
),

-- One row per text and reading: what the words mean in CT, in MR, and as the part of the body that
-- a whole CT study or collection is filed under.
readings as (
    select unnest(['CT', 'MR', 'CT site']) as reading
),

meant as (
    select
        f.text,
        m.reading,
        m.reading <> 'MR'
        and (
            f.torso is not null
            or f.pet is not null
            and coalesce(
                f.brain, f.head_neck, f.neck, f.face, f.slab, f.heart, f.extremity, f.spine
            ) is null
            or f.pet is not null and f.whole_body is not null
        ) as is_torso,
        f.vertex is not null or f.whole_body is not null and f.pet is null as is_whole_body,
        coalesce(
            f.cap,
            f.chest_abdomen,
            f.abdomen,
            f.abdomen_pelvis,
            if(m.reading <> 'MR', f.ap, null)
        ) as belly,
        coalesce(
            f.cap, f.abdomen_pelvis, f.lower_abdomen, f.pelvis, if(m.reading <> 'MR', f.ap, null)
        ) as lower_belly,
        coalesce(
            f.cap,
            f.chest_abdomen,
            f.chest,
            if(m.reading <> 'MR', coalesce(f.thoracic, f.embolism), null)
        ) as thorax,
    from found as f
    cross join readings as m
),

named as (
    select
        m.text,
        m.reading,
        case
            when m.is_whole_body then ['whole_body']
            when m.is_torso then ['torso']
            else list_filter([
                if(f.brain is not null, 'brain', null),
                if(f.head_neck is not null, 'head_neck', null),
                if(f.slab is not null, 'slab', null),
                if(f.face is not null, 'face', null),
                if(f.neck is not null, 'neck', null),
                if(f.larynx is not null, 'larynx', null),
                if(m.thorax is not null, 'chest', null),
                if(f.lung_base is not null, 'lung_base', null),
                if(m.thorax is null and f.lung_base is null and f.lung is not null, 'lung', null),
                if(f.heart is not null, 'heart', null),
                if(m.reading = 'MR' and f.breast is not null, 'breast', null),
                if(
                    m.belly is not null
                    or f.mrcp is not null
                    or m.thorax is not null and m.lower_belly is not null,
                    'abdomen',
                    null
                ),
                -- a CT filed under the kidney is an abdominal CT
                if(
                    f.kidney is not null and f.one_side is null,
                    if(m.reading = 'CT site', 'abdomen', 'kidney'),
                    null
                ),
                if(f.kidney is not null and f.one_side is not null, 'one_kidney', null),
                if(f.kidney_to_pelvis is not null, 'kidney_to_pelvis', null),
                if(
                    coalesce(m.belly, f.kidney, m.thorax) is not null and m.lower_belly is not null
                    or coalesce(m.belly, f.kidney) is not null and f.pelvic_organ is not null,
                    'bowel',
                    null
                ),
                if(m.lower_belly is not null, 'pelvis', null),
                -- chest and bladder are two stacks in one name; chest and pelvis are one
                if(
                    f.pelvic_organ is not null
                    and (m.thorax is null or coalesce(m.belly, m.lower_belly) is not null),
                    if(m.reading = 'CT site', 'pelvic_site', 'pelvic_organ'),
                    null
                ),
                if(f.extremity is not null, 'extremity', null),
                if(
                    f.spine is not null or m.reading = 'MR' and f.thoracic is not null,
                    'spine',
                    null
                )
            ], lambda r: r is not null)
        end as regions,
    from meant as m
    inner join found as f on m.text = f.text
),

gates as (
    select
        r.region,
        r.label,
        r.modality,
        r.only_view,
        coalesce(r.min_height_mm, d.min_height_mm)::double as min_height_mm,
        coalesce(r.min_width_mm, d.min_width_mm)::double as min_width_mm,
        coalesce(r.min_depth_mm, d.min_depth_mm)::double as min_depth_mm,
        coalesce(r.min_slab_width_mm, d.min_slab_width_mm)::double as min_slab_width_mm,
        coalesce(r.min_slab_depth_mm, d.min_slab_depth_mm)::double as min_slab_depth_mm,
        c.index,
    from rule.run as run
    inner join rule.regions as r on list_contains(string_split(r.modes, '|'), run.mode)
    inner join rule.regions as d
        on
            r.label = d.label
            and d.region = 'any'
            and list_contains(string_split(d.modes, '|'), run.mode)
    inner join rule.classes as c on r.label = c.value and c.head = 'coverage'
    where r.region <> 'any'
),

regions as (
    select
        text,
        reading,
        unnest(regions) as region,
    from named
),

labelled as (
    select
        n.text,
        n.reading,
        g.label,
        g.index,
        if(bool_or(g.only_view is null), null, min(g.only_view)) as only_view,
        min(g.min_height_mm) as min_height_mm,
        min(g.min_width_mm) as min_width_mm,
        min(g.min_depth_mm) as min_depth_mm,
        min(g.min_slab_width_mm) as min_slab_width_mm,
        min(g.min_slab_depth_mm) as min_slab_depth_mm,
    from regions as n
    inner join gates as g
        on n.region = g.region and (g.modality is null or starts_with(n.reading, g.modality))
    group by all
),

candidates as (
    select
        text,
        reading,
        list({
            'label': label,
            'only_view': only_view,
            'min_height_mm': min_height_mm,
            'min_width_mm': min_width_mm,
            'min_depth_mm': min_depth_mm,
            'min_slab_width_mm': min_slab_width_mm,
            'min_slab_depth_mm': min_slab_depth_mm
        } order by index) as candidates,
        list(label order by index) as labels,
    from labelled
    group by all
),

spans as (
    select
        n.text,
        n.reading,
        n.regions,
        c.candidates,
        case
            when list_contains(n.regions, 'pelvic_site') then null
            when list_has_any(n.regions, ['torso', 'whole_body']) then trunk_span_mm()
            when
                list_has_any(c.labels, ['lower_head_neck', 'lung'])
                and list_contains(c.labels, 'pelvis')
                then trunk_span_mm()
            when
                list_contains(c.labels, 'lung') and list_has_any(c.labels, ['liver', 'kidney'])
                then chest_abdomen_span_mm()
            when list_contains(c.labels, 'lung') and list_contains(c.labels, 'lower_head_neck')
                then neck_chest_span_mm()
            when
                list_contains(c.labels, 'pelvis') and list_has_any(c.labels, ['liver', 'kidney'])
                then abdomen_pelvis_span_mm()
        end as span_mm,
    from named as n
    left join candidates as c on n.text = c.text and n.reading = c.reading
)

select
    f.*,
    coalesce(f.torso, f.vertex, f.whole_body, f.pet) as wb,
    -- as rule.collections writes collection_key
    regexp_replace(lower(shorten(f.text)), '[^a-z0-9]', '', 'g') as compact,
    list_filter([
        f.torso, f.vertex, f.whole_body, f.pet,
        f.brain, f.head_neck, f.slab, f.face, f.neck, f.larynx,
        f.thoracic, f.chest, f.embolism, f.lung, f.lung_base, f.heart, f.breast, f.cap,
        f.chest_abdomen, f.abdomen, f.kidney, f.kidney_to_pelvis, f.abdomen_pelvis, f.ap,
        f.lower_abdomen, f.pelvis, f.pelvic_organ, f.mrcp, f.extremity, f.spine
    ], lambda w: w is not null) as region_words,
    {
        'words': region_words,
        'regions': ct.regions,
        'candidates': ct.candidates,
        'span_mm': ct.span_mm
    } as ct,
    {
        'words': region_words,
        'regions': mr.regions,
        'candidates': mr.candidates,
        'span_mm': mr.span_mm
    } as mr,
    {
        'words': region_words,
        'regions': site.regions,
        'candidates': site.candidates,
        'span_mm': site.span_mm
    } as site,
from found as f
inner join spans as ct on f.text = ct.text and ct.reading = 'CT'
inner join spans as mr on f.text = mr.text and mr.reading = 'MR'
inner join spans as site on f.text = site.text and site.reading = 'CT site';
comment on view text.region is
'regions that a text names, as read in CT, in MR, and as a part of the body';
comment on column text.region.text is 'the text as the header has it';
comment on column text.region.wb is 'word: torso, vertex, whole body or PET';
comment on column text.region.compact is
'lower-case letters and digits of the text, as collection_key';
comment on column text.region.region_words is 'the words that name regions';
comment on column text.region.ct is 'regions and labels of a CT with this text';
comment on column text.region.mr is 'regions and labels of an MR with this text';
comment on column text.region.site is 'regions and labels of a part of the body with this text';
