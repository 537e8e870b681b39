"""Readings of the machine."""

import os
import time

import psutil

from moescope.platform.catalogue import CATALOGUE, CPU_SHARE, MEMORY_GIB
from moescope.platform.system_meter import SystemMeter


def test_it_reads_what_the_catalogue_knows() -> None:
    values = SystemMeter().read()
    assert {CPU_SHARE, MEMORY_GIB} <= set(values) <= set(CATALOGUE)
    assert all(CATALOGUE[name].group == "system" for name in values)


def test_a_busy_process_has_a_share_of_all_processors() -> None:
    meter = SystemMeter()
    until_s = time.process_time() + 0.3
    start_s = time.monotonic()
    while time.process_time() < until_s:
        pass
    # the processors were shared with others: at least what this process got
    got = 0.3 / (time.monotonic() - start_s) / (os.cpu_count() or 1)
    assert 0.5 * got < meter.read()[CPU_SHARE] <= 1.1


def test_memory_is_what_the_system_says() -> None:
    expected = psutil.Process().memory_info().rss / 2**30
    assert abs(SystemMeter().read()[MEMORY_GIB] - expected) < 0.1
