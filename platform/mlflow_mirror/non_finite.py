"""NaN and infinities as tags: MLflow's pages break on a NaN metric, and an infinity comes back as
1.8e308, so the line has a gap and a tag says what was there.

    moescope.non_finite.loss/total   first at step 17, last at step 19, in 3 steps: nan
    moescope.non_finite.router/max_violation   ... : inf; in layer_03, layer_07
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..records import Frame
from .numbers_sent import of_frame

PREFIX = "moescope.non_finite."
_TEXT = re.compile(
    r"first at step (\d+), last at step (\d+), in (\d+) steps?: ([^;]*)(?:; in (.*))?"
)
_LAYER = re.compile(r"(.*)/(layer_\d+)")


@dataclass(slots=True)
class _Seen:
    first: int
    last: int = -1
    num_steps: int = 0
    kinds: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def text(self) -> str:
        unit = "step" if self.num_steps == 1 else "steps"
        where = f"; in {', '.join(self.layers)}" if self.layers else ""
        return (
            f"first at step {self.first}, last at step {self.last}, in {self.num_steps} {unit}: "
            f"{', '.join(self.kinds)}{where}"
        )


class NonFinite:
    """What of one segment was not finite. A frame that comes again is not counted again."""

    def __init__(self, read_tags: Callable[[], Mapping[str, str]]) -> None:
        """read_tags: those of the segment's MLflow run, from an earlier process; asked for once,
        when something is not finite."""
        self._read_tags = read_tags
        self._is_read = False
        self._seen: dict[str, _Seen] = {}
        self._unsent: set[str] = set()

    def take(self, frame: Frame) -> None:
        bad: dict[str, list[tuple[float, str]]] = {}
        for values in of_frame(frame).values():
            for name, value in values.items():
                if not math.isfinite(value):
                    of_layer = _LAYER.fullmatch(name)
                    signal, layer = of_layer.groups() if of_layer else (name, "")
                    bad.setdefault(signal, []).append((value, layer))
        if bad and not self._is_read:
            self._take_up(self._read_tags())
            self._is_read = True
        for signal, values_here in bad.items():
            seen = self._seen.setdefault(signal, _Seen(frame.step))
            if frame.step <= seen.last:
                continue
            seen.last, seen.num_steps = frame.step, seen.num_steps + 1
            for value, layer in values_here:
                if str(value) not in seen.kinds:
                    seen.kinds.append(str(value))
                if layer and layer not in seen.layers:
                    seen.layers = sorted([*seen.layers, layer])
            self._unsent.add(signal)

    def unsent(self) -> dict[str, str]:
        """{tag: text} of what has changed since `sent`."""
        return {PREFIX + signal: self._seen[signal].text() for signal in sorted(self._unsent)}

    def sent(self) -> None:
        self._unsent.clear()

    def _take_up(self, tags: Mapping[str, str]) -> None:
        for key, text in tags.items():
            found = _TEXT.fullmatch(text) if key.startswith(PREFIX) else None
            if found is not None:
                first, last, num_steps, kinds, layers = found.groups()
                self._seen[key.removeprefix(PREFIX)] = _Seen(
                    int(first),
                    int(last),
                    int(num_steps),
                    kinds.split(", "),
                    layers.split(", ") if layers else [],
                )
