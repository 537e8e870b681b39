"""A store that may be away: opened when it is first needed, let go after a failure, opened again at the next need."""

import os
from pathlib import Path

from sqlalchemy.engine import make_url

from .errors import MoescopeError
from .store import Store, open_store


class StoreDoor:
    """Gives one thread its store, and notices when an embedded store's file was taken away or replaced.

    SQLite would go on writing into a deleted file without a word. A file that is gone is not made anew here: the disk it
    lies on may come back, and what was written elsewhere meanwhile would be lost to it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._store: Store | None = None
        self._path = _file_of(url)
        self._identity: tuple[int, int] | None = None

    def enter(self) -> Store:
        """Returns the open store. Raises MoescopeError if it is away."""
        identity = _identity(self._path)
        if self._path is not None and identity is None:
            self.shut()
            raise MoescopeError(
                f"store file {self._path} is gone: put it back, or make a new one with `moescope db upgrade`"
            )
        if identity != self._identity:
            self.shut()
        if self._store is None:
            self._store = open_store(self.url)
            self._identity = identity
        return self._store

    def shut(self) -> None:
        """Lets go of the store; the next `enter` opens it again. Never raises."""
        store, self._store = self._store, None
        self._identity = None
        if store is not None:
            try:
                store.close()
            except Exception:
                pass

    @property
    def is_open(self) -> bool:
        return self._store is not None


def _file_of(url: str) -> Path | None:
    """Returns the file of an embedded store; None for a server or a store in memory."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    if parsed.database == ":memory:" or parsed.database.startswith("file:"):
        return None
    return Path(parsed.database)


def _identity(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
