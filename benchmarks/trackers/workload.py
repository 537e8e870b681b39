"""The numbers that every tracker is given, and the step that they are logged from (facts:
tracking.md 1.1).

668 float32 a step: 12 layers of 48 expert loads, 6 values of each layer, 20 of the whole. Chance,
hence the worst case for compression. The step holds the interpreter for a moment, as launching
kernels does, and then waits.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LAYERS, EXPERTS, LAYER_VALUES, GLOBALS = 12, 48, 6, 20
NUMBERS = LAYERS * EXPERTS + LAYERS * LAYER_VALUES + GLOBALS
STEPS = 2000
CHECKED_LAYER = 5
CHECKED_GLOBAL = 3


@dataclass(frozen=True, slots=True)
class Numbers:
    """N steps: loads (N, layers, experts), of each layer (N, values, layers), of the whole (N,
    20)."""

    loads: NDArray[np.float32]
    layers: NDArray[np.float32]
    globals: NDArray[np.float32]


@dataclass(slots=True)
class Result:
    """What one tracker took; milliseconds unless the name says otherwise."""

    name: str
    version: str = ""
    num_steps: int = 0
    call_median: float = 0.0
    call_p99: float = 0.0
    added: float = 0.0
    drain_s: float = 0.0
    cpu: float = 0.0
    bytes_per_step: float = 0.0
    scalar_first: float = 0.0
    scalar_second: float = 0.0
    matrix_first: float = 0.0
    matrix_second: float = 0.0
    is_right: bool = False
    """Whether both reads gave what was written."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def numbers(num_steps: int, experts: int = EXPERTS) -> Numbers:
    chance = np.random.default_rng(0)
    return Numbers(
        chance.dirichlet(4 * np.ones(experts), (num_steps, LAYERS)).astype("f4"),
        chance.normal(size=(num_steps, LAYER_VALUES, LAYERS)).astype("f4"),
        (1 + 0.05 * chance.normal(size=(num_steps, GLOBALS))).astype("f4"),
    )


def body() -> None:
    x = 0
    for i in range(60_000):
        x += i & 7
    time.sleep(0.006)


def as_dict(data: Numbers, step: int) -> dict[str, float]:
    """What trackers of named scalars ask for."""
    loads, layers = data.loads[step].tolist(), data.layers[step].tolist()
    out = {f"load/{i}/{j}": v for i, row in enumerate(loads) for j, v in enumerate(row)}
    out |= {f"layer/{i}/{j}": v for j, row in enumerate(layers) for i, v in enumerate(row)}
    return out | {f"global/{i}": v for i, v in enumerate(data.globals[step].tolist())}


def time_loop(
    result: Result,
    log: Callable[[int], None],
    num_steps: int,
    cap_s: float,
    drain: Callable[[], None],
) -> None:
    """Runs the steps, at most `cap_s` seconds of them, and fills in what logging took."""
    before_s = _bodies(150)
    calls = []
    cpu_s, start_s = time.process_time(), time.perf_counter()
    for step in range(num_steps):
        body()
        call_s = time.perf_counter()
        log(step)
        calls.append(time.perf_counter() - call_s)
        if time.perf_counter() - start_s > cap_s:
            break
    loop_s = time.perf_counter() - start_s
    drain_s = time.perf_counter()
    drain()
    result.drain_s = time.perf_counter() - drain_s
    result.num_steps = len(calls)
    used_s = time.process_time() - cpu_s
    cpu_s = time.process_time()
    after_s = _bodies(150)
    body_cpu_s = (time.process_time() - cpu_s) / 150
    result.call_median, result.call_p99 = 1000 * np.percentile(calls, [50, 99])
    result.added = 1000 * (loop_s / len(calls) - min(before_s, after_s))
    result.cpu = 1000 * (used_s / len(calls) - body_cpu_s)


def time_reads(
    result: Result,
    scalar: Callable[[], NDArray[np.float32]],
    matrix: Callable[[], NDArray[np.float32]],
    data: Numbers,
) -> None:
    """Reads one number of all steps, and the loads of one layer, twice each."""
    times, right = [], []
    for read, wanted in (
        (scalar, data.globals[: result.num_steps, CHECKED_GLOBAL]),
        (matrix, data.loads[: result.num_steps, CHECKED_LAYER]),
    ):
        for _ in range(2):
            start_s = time.perf_counter()
            found = read()
            times.append(1000 * (time.perf_counter() - start_s))
            right.append(np.array_equal(np.asarray(found, "f4"), wanted))
    result.scalar_first, result.scalar_second, result.matrix_first, result.matrix_second = times
    result.is_right = all(right)


def disk_bytes(folder: Path) -> int:
    """What the files below a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)


def _bodies(count: int) -> float:
    start_s = time.perf_counter()
    for _ in range(count):
        body()
    return (time.perf_counter() - start_s) / count
