"""Not a benchmark itself: candidates take turns in one process, so that what disturbs one disturbs
all.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch


def print_ratios(candidates: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Prints each candidate's time, and the first one's over it: the median of the rounds with its
    quartiles. CPU time, so that other work on the machine does not count; wall time on a GPU, for
    which a candidate waits."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(-1, rounds):
        first = turn % len(names)  # everybody follows everybody's place in turn
        for name in names[first:] + names[:first]:
            start_s = clock()
            candidates[name]()
            if turn >= 0:  # the first round warms up
                seconds[name].append(clock() - start_s)
    ours = np.array(seconds[names[0]])
    for name in names:
        low, median, high = np.percentile(ours / np.array(seconds[name]), [25, 50, 75])
        print(
            f"{name:28} {1000 * np.median(seconds[name]):7.1f} ms; {names[0]} takes {median:.3f} of"
            f" it ({low:.3f} to {high:.3f})"
        )
