"""kill -9 at 45 random moments of a writer's life, the first ones included: at most half a second
of samples is lost, no alert, no event, and the store is sound.
"""

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moescope.platform.store import open_store

pytestmark = pytest.mark.story

AT_ONCE = 5
LONGEST_LIFE_S = 1.5
SHARE_IN_THE_BEGINNING = 0.15


def killed_at_random(writers: list[Any], rng: random.Random) -> list[tuple[Any, float]]:
    """Kills each at a moment of its own; returns (writer, when)."""
    waiting: dict[Any, float] = {}
    for writer in writers:
        if rng.random() < SHARE_IN_THE_BEGINNING:
            # while it opens the store, which the first one makes
            waiting[writer] = time.monotonic() + rng.uniform(0.5, 2.5)
    life_s = {writer: rng.uniform(0.0, LONGEST_LIFE_S) for writer in writers}
    killed: list[tuple[Any, float]] = []
    while len(killed) < len(writers):
        for writer in writers:
            begun_s = writer.told().begun_s if writer not in waiting else None
            if begun_s is not None:
                waiting[writer] = begun_s + life_s[writer]
        for writer, moment_s in sorted(waiting.items(), key=lambda item: item[1]):
            if moment_s <= time.monotonic() and all(writer is not other for other, _ in killed):
                killed.append((writer, writer.kill()))
        time.sleep(0.005)
    return killed


def assert_sound(file: Path) -> None:
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


@pytest.mark.parametrize("wave", range(6))
def test_an_embedded_store_survives_it(
    wave: int,
    tmp_path: Path,
    write: Callable[..., Any],
    succeed: Callable[..., list[str]],
    assert_kept: Callable[..., int],
) -> None:
    """30 of the 45: two runs in the first two stores of a wave, one in the third."""
    homes = [tmp_path / f"home-{index // 2}" for index in range(AT_ONCE)]
    urls = {home: f"sqlite:///{home / 'store.db'}" for home in homes}
    writers = [
        write(urls[home], home, f"r{index}", seed=100 * wave + index)
        for index, home in enumerate(homes)
    ]
    killed = killed_at_random(writers, random.Random(wave))
    for home in urls:
        if (home / "store.db").exists():
            assert_sound(home / "store.db")
    lines = succeed(*((url, home) for home, url in urls.items()))
    assert all(line.endswith(" True") for line in lines), lines
    for writer, killed_s in killed:
        home = writer.folder.parent.parent
        with open_store(urls[home]) as store:
            assert_kept(store, writer.run, writer.told(), killed_s)
        assert_sound(home / "store.db")


@pytest.mark.postgres
@pytest.mark.parametrize("wave", range(3))
def test_a_shared_store_survives_it(
    wave: int,
    postgres_url: str,
    tmp_path: Path,
    write: Callable[..., Any],
    succeed: Callable[..., list[str]],
    assert_kept: Callable[..., int],
) -> None:
    """15 of the 45, five runs at once in one store."""
    writers = [
        write(postgres_url, tmp_path / "home", f"r{index}", seed=1000 * wave + index)
        for index in range(AT_ONCE)
    ]
    killed = killed_at_random(writers, random.Random(50 + wave))
    lines = succeed((postgres_url, tmp_path / "home"))
    assert all(line.endswith(" True") for line in lines), lines
    with open_store(postgres_url) as store:
        for writer, killed_s in killed:
            assert_kept(store, writer.run, writer.told(), killed_s)
