"""Memory of a processor's tensors in huge pages, where the system lends them on request."""

import os


def use_huge_pages() -> None:
    """Lets torch ask for pages of 2 MiB for tensors that large, unless the environment says
    otherwise.

    glibc gives large blocks back when they are freed and asks for them anew in the next step, page
    by page: 2.6 microseconds a page of 4 KiB on a virtual machine, 24 ms for the 38 MB of one
    gradient, 3 ms with huge pages (docs/lab.md). Call it before torch is imported; afterwards it
    has no effect, nor has it where the system says never to huge pages. Nothing changes on CUDA.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
