"""Figures as the browser gets them, kept for all viewers while what they are made of stays the
same.
"""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import plotly.graph_objects as go

MOST_KEPT = 600
"""About 20 kB each."""


@dataclass(frozen=True, slots=True)
class Drawn:
    json: str
    version: int
    """Another one where anything of the figure differs."""
    height: int
    """In pixels."""


def drawn(figure: go.Figure) -> Drawn:
    text = figure.to_json(validate=False)
    return Drawn(text, zlib.crc32(text.encode()), figure.layout.height or 280)


class KeptFigures:
    """Makes a figure once for each thing that it is made of; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Drawn] = OrderedDict()

    def of(self, made_of: Hashable, build: Callable[[], go.Figure]) -> Drawn:
        """Returns the figure of `made_of`, which says everything that `build` depends on."""
        with self._lock:
            found = self._kept.get(made_of)
            if found is not None:
                self._kept.move_to_end(made_of)
                return found
        made = drawn(build())
        with self._lock:
            self._kept[made_of] = made
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return made
