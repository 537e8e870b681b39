"""The sink that writes a run's records into the store."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import StatementError

from .engines import StoreAway, UnknownRun, parsed_url
from .errors import MoescopeError
from .handover import HandOver
from .incidents import put_incident
from .journal import Position
from .record_codec import Record
from .records import Alert, Checkpoint, Event, Frame, Incident, Run, Segment
from .sink_thread import RecordRefused
from .store import Store
from .store_door import StoreDoor


class SqlSink:
    """Writes into the store at an address, which is opened in the sink's own thread and may be away
    at first.
    """

    name = "sql"

    def __init__(self, store_url: str, run: Run | None = None) -> None:
        """run: entered into a store that does not know it, as one made anew after the first was
        lost.
        """
        self._door = StoreDoor(store_url)
        self._run = run
        self._is_run_known = run is None
        is_embedded = parsed_url(store_url).get_backend_name() == "sqlite"
        self._handover = HandOver(run.id) if run is not None and is_embedded else None

    def write(self, records: Sequence[Record]) -> None:
        """Writes each kind in short transactions of its own; it is on a server's disk when this
        returns. Raises StoreAway or RecordRefused.
        """
        store = self._door.enter()
        num_lost = store.database.num_lost
        self._make_run_known(store)
        try:
            for record in records:
                if isinstance(record, Segment):
                    store.add_segment(record)
            frames = [record for record in records if isinstance(record, Frame)]
            if frames:
                store.write_frames(frames)
            for record in records:
                if isinstance(record, Event):
                    store.add_event(record)
                elif isinstance(record, Alert):
                    store.put_alert(record)
                elif isinstance(record, Checkpoint):
                    store.put_checkpoint(record)
                elif isinstance(record, Incident):
                    put_incident(store, record)
            store.database.bring_to_disk(num_lost)
        except UnknownRun:
            # deleted, or the store was replaced: then no record is at fault
            self._is_run_known = self._run is None
            raise
        except StoreAway:
            raise
        except MoescopeError as error:
            raise RecordRefused(str(error)) from error
        except (StatementError, ValueError, TypeError) as error:
            raise RecordRefused(f"the store cannot hold it: {error}") from error

    def taken_elsewhere(self, folder: Path, position: Position, end: Position) -> Position | None:
        """How far the service has come where it writes the run's frames (`platform/handover.py`);
        None where this process does. What is no frame is written here. Raises as `write` does.
        """
        if self._handover is None:
            return None
        store = self._door.enter()
        return self._handover.taken(store, folder, position, end, self.write)

    def close(self) -> None:
        self._door.shut()

    def _make_run_known(self, store: Store) -> None:
        if self._run is None or self._is_run_known:
            return
        try:
            store.find_run(self._run.id)
        except UnknownRun:
            store.add_run(self._run)
        self._is_run_known = True
