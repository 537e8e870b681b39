"""Huge pages, as the operating system's own count of page faults says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
import resource, sys
from moescope.kernels.host_memory import use_huge_pages
use_huge_pages()
import torch
def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 * 2**20).zero_()  # 64 MiB: beyond what glibc keeps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults_of_a_step() for _ in range(3)))
"""
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
needs_huge_pages = pytest.mark.skipif(
    not SETTING.is_file() or "[madvise]" not in SETTING.read_text(),
    reason="this system does not lend huge pages on request alone",
)


def _faults(**environment: str) -> int:
    """In a process of its own: torch reads the setting once."""
    clean = {name: v for name, v in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    command = [sys.executable, "-c", STEPS]
    return int(subprocess.check_output(command, env=clean | environment, text=True))


@needs_huge_pages
def test_a_large_tensor_comes_in_huge_pages() -> None:
    # 32 huge pages, and small ones up to the first and from the last boundary of 2 MiB
    assert _faults() <= 32 + 2 * 512


@needs_huge_pages
def test_what_the_environment_says_is_left_alone() -> None:
    assert _faults(THP_MEM_ALLOC_ENABLE="0") >= 16384  # of 4 KiB each
