"""How an imported run is known: by its id, by the note that it carries, by what its configuration
keeps of the import."""

import hashlib
from typing import Any

from ..errors import MoescopeError
from ..records import Event, Run
from ..store import Store
from .points import Source

MARK = "imported_from"
"""In the details of the note that every imported run has."""


def run_id_of(source: Source) -> str:
    """The id that a source's run has in every store: its own, or made of what it is known by."""
    if source.own_run is not None:
        return source.own_run.id
    key = f"{source.kind}\x00{source.key}"
    digest = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=6).hexdigest()
    return f"{source.kind}-{digest}"


def is_imported(store: Store, run_id: str) -> bool:
    return _mark(store, run_id) is not None


def _mark(store: Store, run_id: str) -> Event | None:
    notes = store.events(run_id, kinds=["note"])
    return next((note for note in notes if MARK in note.details), None)


def imported_before(store: Store, run_id: str, source: Source, has_moved: bool) -> Run | None:
    found = next((run for run in store.runs(include_archived=True) if run.id == run_id), None)
    if found is None:
        return None
    mark = _mark(store, run_id)
    if mark is None and source.own_run is None:
        return found  # whoever imported it was killed at once; nobody else makes such an id
    if mark is None:
        raise MoescopeError(
            f"run {found.name} ({run_id}) is in this store itself, so nothing is imported: "
            "import it into another store"
        )
    place = mark.details.get("place", source.place)
    if source.is_of_one_place and place != source.place and not has_moved:
        raise MoescopeError(
            f"run {found.name} was imported from {place}, and {source.place} is another place: "
            "--name makes it a run of its own, --moved says that it is the same one"
        )
    return found


def imported_config(run: Run | None) -> dict[str, Any]:
    found = run.config.get("imported") if run is not None else None
    return found if isinstance(found, dict) else {}
