"""The store's table of reports: a study has one, the newest."""

from sqlalchemy import select

from . import tables
from .records import StudyReport
from .store import Store
from .upserts import columns_of
from .upserts import replace as upsert


def save(store: Store, report: StudyReport) -> None:
    """Keeps a report in place of the study's older one; the study must be in the store."""
    values = columns_of(report)
    store.database.write(
        lambda c: c.execute(upsert(c.dialect.name, tables.reports, tuple(values)), values),
        is_durable=True,
    )


def newest(store: Store, name: str) -> StudyReport | None:
    """Returns a study's report; None where none was made."""
    statement = select(tables.reports).where(tables.reports.c.study == name)
    row = store.database.read(lambda c: c.execute(statement).mappings().first())
    return None if row is None else StudyReport(**row)


def made_at(store: Store, name: str) -> float | None:
    """Returns when a study's report was made, without reading it; None where there is none."""
    statement = select(tables.reports.c.made_s).where(tables.reports.c.study == name)
    made_s: float | None = store.database.read(lambda c: c.scalar(statement))
    return made_s
