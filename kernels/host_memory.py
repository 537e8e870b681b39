"""Memory that a processor's tensors leave behind is kept for the next ones."""

import ctypes
import os

# names and numbers of <malloc.h>
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Makes glibc keep what this process frees; returns whether it does so now.

    By default glibc gives blocks of more than 32 MiB back to the system when they are freed and
    asks for them anew in the next step, page by page: 2.6 microseconds a page of 4 KiB on a virtual
    machine, 24 ms for the 38 MB of one gradient (docs/benchmarks.md). Kept memory costs that once;
    in return the process never shrinks below its peak. Changes nothing on CUDA, with another C
    library, or where the environment sets MALLOC_ variables of its own.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # no block has pages of its own, and the end of the heap is never given back; 1 means done
    return bool(mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, -1) == 1)
