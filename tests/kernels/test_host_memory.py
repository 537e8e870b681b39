"""Freed memory is kept, as the operating system's own count of page faults says."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from moescope.kernels.host_memory import keep_freed_memory
keeps = keep_freed_memory() if sys.argv[1] == "kept" else False
def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16 * 2**20).zero_()  # 64 MiB, above every threshold that glibc chooses by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults_of_a_step()
print(keeps, faults_of_a_step())
"""
IS_GLIBC = platform.libc_ver()[0] == "glibc"


def _steps(how: str, **environment: str) -> tuple[bool, int]:
    """In a process of its own: memory that was kept once is kept for good."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, how],
        env=clean | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    keeps, faults = done.stdout.split()
    return keeps == "True", int(faults)


@pytest.mark.skipif(not IS_GLIBC, reason="no glibc here")
def test_the_second_step_asks_the_system_for_no_memory() -> None:
    keeps, faults = _steps("kept")
    assert keeps
    assert faults < 100  # of 16384 pages of 4 KiB


@pytest.mark.skipif(not IS_GLIBC, reason="no glibc here")
def test_without_it_each_step_does() -> None:
    keeps, faults = _steps("given back")
    assert not keeps
    assert faults > 16  # 16384 small pages, or 32 huge ones


def test_what_the_environment_says_is_left_alone() -> None:
    assert _steps("kept", MALLOC_ARENA_MAX="2")[0] is False
