"""A run's measured data as a file: every point of what was chosen, nothing thinned."""

import glob
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..platform.history.export_files import Format, write_export
from ..platform.history.exporting import Wanted, prepared
from ..platform.records import Run
from ..platform.series import latest, sources
from ..platform.store import Store
from .window import StepRange

MOST_NUMBERS: dict[Format, int] = {"csv": 4_000_000, "jsonl": 4_000_000, "parquet": 40_000_000}
"""Of a file that a page hands out, which is in memory as a whole: some hundred megabytes."""


def num_numbers(
    store: Store, run_id: str, signals: Sequence[str], step_range: StepRange = None
) -> int:
    """Returns how many numbers a file of these signals has at most, as if each step had them."""
    first, last = step_range or (-math.inf, math.inf)
    shapes = latest(store, run_id, signals)
    total = 0
    for signal, source in sources(store.database, run_id, list(signals)).items():
        size = shapes[signal][1].size if signal in shapes else 1
        for _, start, end, _ in source.spans:
            total += size * max(0, int(min(end, last) - max(start, first)) + 1)
    return total


def exported(
    store: Store,
    run: Run,
    signals: Sequence[str],
    format: Format,
    step_range: StepRange,
    is_living_only: bool,
) -> bytes:
    """Returns the file that `moescope export` would write of the same."""
    first, last = step_range or (None, None)
    # a name of a user's own may look like a pattern
    names = tuple(glob.escape(signal) for signal in signals)
    wanted = Wanted(names, first, last, is_living_only)
    with TemporaryDirectory(prefix="moescope-export-") as folder:
        file = Path(folder) / f"run.{format}"
        write_export(prepared(store, run, wanted), format, file)
        return file.read_bytes()
