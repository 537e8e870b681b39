"""A store that may be away at first: opened when it is needed, by a side thread that can wait."""

from pathlib import Path

from .engines import StoreAway, parsed_url, shown_url
from .store import Store, open_store


class StoreDoor:
    """Gives one thread its store. Once open, the store itself copes with faults (`Store`,
    `StoreAway`).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._store: Store | None = None

    def enter(self) -> Store:
        """Returns the open store. Raises MoescopeError while it is away.

        An embedded store that is not there is not made anew: the disk that it lies on may come
        back, and what was written elsewhere meanwhile would be lost to it.
        """
        if self._store is None:
            url = parsed_url(self.url)
            if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
                raise StoreAway(
                    f"store {shown_url(url)} is gone: put it back, "
                    "or make a new one with `moescope db upgrade`"
                )
            self._store = open_store(self.url)
        return self._store

    def shut(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
