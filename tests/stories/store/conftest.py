"""What the stories about the store share: writers in processes of their own, and what they left."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from moescope.platform.catalogue import EXPERT_TOKENS, LOSS_TOTAL
from moescope.platform.series import read_series
from moescope.platform.store import Store

HERE = Path(__file__).parent
MOST_LOST_S = 0.5


@dataclass
class Told:
    """What a writer wrote down before it ended."""

    begun_s: float | None = None
    handed_s: dict[int, float] = field(default_factory=dict)
    """{step: when `record` had returned}"""
    said: list[tuple[str, str]] = field(default_factory=list)
    """(kind, key) of what `say` had returned for."""
    looks: list[dict[str, Any]] = field(default_factory=list)
    replaced_by: str = ""
    ended: dict[str, Any] | None = None

    def keys_of(self, kind: str) -> list[str]:
        return [key for said_kind, key in self.said if said_kind == kind]

    def states(self, after_s: float = 0.0, before_s: float = float("inf")) -> set[str]:
        return {look["state"] for look in self.looks if after_s <= look["at_s"] <= before_s}


def read_told(path: Path) -> Told:
    told = Told()
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # it was killed in the middle of it
        word, _, rest = line.strip().partition(" ")
        if word == "begun":
            told.begun_s = float(rest)
        elif word == "frame":
            step, at_s = rest.split()
            told.handed_s[int(step)] = float(at_s)
        elif word == "said":
            kind, _, rest = rest.partition(" ")
            told.said.append((kind, rest.rpartition(" ")[0]))
        elif word == "status":
            told.looks.append(json.loads(rest))
        elif word == "replaced":
            told.replaced_by = rest
        elif word == "ended":
            told.ended = json.loads(rest)
    return told


class Writer:
    """A process that writes a run, and what it wrote down."""

    def __init__(
        self, url: str, home: Path, run: str, told: Path, env: dict[str, str], asked: Any
    ) -> None:
        self.run = run
        self.folder = home / "runs" / run
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "stop").unlink(missing_ok=True)
        self._told = told
        asked = {"url": url, "run": run, "folder": str(self.folder), **asked}
        words = [sys.executable, str(HERE / "a_writer.py")]
        self._errors = self._told.with_suffix(".errors").open("w+")
        self.process = subprocess.Popen(
            [*words, json.dumps({**asked, "told": str(self._told)})],
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        )

    def told(self) -> Told:
        return read_told(self._told)

    def errors(self) -> str:
        return self._told.with_suffix(".errors").read_text()

    def wait_until(self, is_true: Callable[[Told], bool], most_s: float = 30.0) -> Told:
        until_s = time.monotonic() + most_s
        while not is_true(told := self.told()):
            assert self.process.poll() is None or is_true(self.told()), self.errors()
            assert time.monotonic() < until_s, f"waited in vain: {told.looks[-1:]} {self.errors()}"
            time.sleep(0.05)
        return told

    def wait_for_steps(self, number: int) -> Told:
        """Waits until it has handed over so many steps more."""
        first = len(self.told().handed_s)
        return self.wait_until(lambda told: len(told.handed_s) >= first + number)

    def kill(self) -> float:
        """Kills it with -9; returns when."""
        self.process.kill()
        killed_s = time.monotonic()
        self.process.wait()
        return killed_s

    def stop(self, most_s: float = 60.0) -> Told:
        """Asks it to end; returns all that it wrote down."""
        (self.folder / "stop").touch()
        assert self.process.wait(most_s) == 0, self.errors()
        told = self.told()
        assert told.ended is not None
        return told

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._errors.close()


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[..., Writer]]:
    """Starts writers, `write(url, home, run, env={}, **asked)`; ends those that still live."""
    writers: list[Writer] = []

    def start(
        url: str, home: Path, run: str, env: dict[str, str] | None = None, **asked: Any
    ) -> Writer:
        # not in the home, which may lie on a disk that is full
        told = tmp_path / f"{len(writers)}.told"
        writers.append(Writer(url, home, run, told, env or {}, asked))
        return writers[-1]

    yield start
    for writer in writers:
        writer.end()


class Machine:
    """One on which processes can be started whose clock jumps and whose disk is slow, by turns."""

    def __init__(self, library: Path, file: Path) -> None:
        self.env = {"LD_PRELOAD": str(library), "STORY_FAULTS": str(file)}
        self._file = file
        self.has(clock_shift_s=0.0, sync_s=0.0)

    def has(self, *, clock_shift_s: float = 0.0, sync_s: float = 0.0) -> None:
        """From now on, in the processes that run already too."""
        # in place: they have the file mapped
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("<dd", clock_shift_s, sync_s))

    def called(self, name: str) -> dict[str, str]:
        """The environment of another machine, as far as its name goes."""
        return {**self.env, "STORY_HOST": name}


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    words = ["-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([os.environ.get("CC", "cc"), *words, str(HERE / "faults.c")], check=True)
    return library


@pytest.fixture
def machine(fault_library: Path, tmp_path: Path) -> Machine:
    return Machine(fault_library, tmp_path / "faults")


@pytest.fixture
def succeed() -> Callable[..., list[str]]:
    """Runs the process that comes afterwards, `succeed((url, home), ...)`; returns what it said."""

    def run(*places: tuple[str, Path]) -> list[str]:
        words = [str(word) for place in places for word in place]
        done = subprocess.run(
            [sys.executable, str(HERE / "a_successor.py"), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.fixture
def assert_kept() -> Callable[..., int]:
    """`assert_kept(store, run, told, killed_s=None)`: of what a writer handed over and said, the
    store has everything once, but for the last half second before it was killed. Returns how many
    steps were lost."""
    return _assert_kept


def _assert_kept(
    store: Store, run: str, told: Told, killed_s: float | None = None, segment: int = 0
) -> int:
    if told.begun_s is None and run not in [known.id for known in store.runs()]:
        return 0  # killed before it had entered its run
    series = read_series(store, run, LOSS_TOTAL, segments=[segment])
    steps = series.steps.tolist()
    first = min(told.handed_s, default=0)
    assert steps == list(range(first, first + len(steps))), "a hole, or a step twice"
    assert series.values.tolist() == [float(step) for step in steps]
    loads = read_series(store, run, EXPERT_TOKENS, row=11, segments=[segment])
    assert loads.steps.tolist() == steps
    assert (loads.values == loads.steps[:, None]).all()
    lost_s = [at_s for step, at_s in told.handed_s.items() if step >= first + len(steps)]
    if killed_s is None:
        assert lost_s == [], f"{len(lost_s)} steps are lost"
    elif lost_s:
        assert killed_s - min(lost_s) <= MOST_LOST_S, (
            f"{len(lost_s)} steps of {killed_s - min(lost_s):.2f} s are lost"
        )
    alerts = [alert.id for alert in store.alerts(run) if alert.segment == segment]
    events = [event.text for event in store.events(run) if event.segment == segment]
    for kind, found in (("alert", alerts), ("event", events)):
        assert len(found) == len(set(found)), f"an {kind} came twice"
        said = told.keys_of(kind)
        # one more may have been journaled that `say` had not returned for
        assert set(said) <= set(found), f"{kind} lost: {set(said) - set(found)}"
        assert len(found) <= len(said) + (killed_s is not None)
    indices = [known.index for known in store.segments(run)]
    assert len(indices) == len(set(indices))
    assert {int(index) for index in told.keys_of("segment")} <= set(indices)
    return len(lost_s)


class Cluster:
    """A PostgreSQL server of our own, which may be stopped and started as a story needs it."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._data = folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        # no locale: as in a container in which no language is set, so its text is SQL_ASCII
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync", "--no-locale")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(f"port = {self._port}\nlisten_addresses = '127.0.0.1'\n")
            file.write(f"unix_socket_directories = '{folder}'\nshared_buffers = 32MB\n")
            # what was committed asynchronously is on its disk up to 3 times this later
            file.write("wal_writer_delay = 2s\n")
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        self._run("pg_ctl", "--silent", "--wait", "--log", str(self._data / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """mode: fast, as a restart does; immediate, as a power cut would, without a farewell."""
        self._run("pg_ctl", "--silent", "--wait", f"--mode={mode}", "stop")

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    def asks_for_a_password_of(self, role: str) -> None:
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self.ask("SELECT pg_reload_conf()")

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._binaries / program), "--pgdata", str(self._data), *words]
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            command = ["runuser", "-u", "postgres", "--", *command]
        # a file, since the server inherits it and would keep a pipe open
        with self._data.parent.joinpath("pg_ctl.log").open("a+") as log:
            done = subprocess.run(command, stdout=log, stderr=log, cwd="/", check=False)
            log.seek(0)
            assert done.returncode == 0, log.read()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = shutil.which("initdb")
    if not found and path is None:
        pytest.skip("no initdb: Debian's package postgresql has it")
    binaries = found[-1].parent if found else Path(str(path)).parent
    # not in pytest's folder, which is closed to the user that the server runs as
    folder = Path(tempfile.mkdtemp(prefix="story-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    try:
        made = Cluster(binaries, folder)
        made.start()
        yield made
        made.stop("immediate")
    finally:
        shutil.rmtree(folder)
