-- grain: one row per series to roll up
-- meaning: the first and the last task that read a part with rows of the series
create table divided as
select
    c.SeriesInstanceUID,
    c.n,
    a.task as first_task,
    b.task as last_task,
from changed as c
inner join division as a on c.first_part = a.part
inner join division as b on c.last_part = b.part;
