"""One MLflow run for each thing, however many make it at the same moment."""

import random
import threading
import time
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.mlflow_mirror import one_run
from moescope.platform.mlflow_mirror.one_run import SETTLED, find_or_create

TAGS = {"moescope.run_id": "r"}


class Table:
    """What MLflow promises of runs: each request happens at some moment between its start and its
    end, and nothing more."""

    def __init__(self, seed: int) -> None:
        self.runs: dict[str, dict[str, str]] = {}
        self.num_made = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def _pass_time(self) -> None:
        time.sleep(self._random.choice([0, 0, 0.001, 0.003]))

    def search_runs(self, experiment_ids: list[str], wanted: str) -> list[Any]:
        self._pass_time()
        with self._lock:
            found = [
                SimpleNamespace(
                    info=SimpleNamespace(run_id=run_id),
                    data=SimpleNamespace(tags=dict(tags), metrics={}, params={}),
                )
                for run_id, tags in self.runs.items()
            ]
        self._pass_time()
        return found

    def create_run(self, experiment_id: str, tags: dict[str, str], **_: Any) -> Any:
        self._pass_time()
        run_id = uuid.UUID(int=self._random.getrandbits(128)).hex
        with self._lock:
            self.num_made += 1
            self.runs[run_id] = dict(tags)
        self._pass_time()
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._pass_time()
        with self._lock:
            self.runs[run_id][key] = value
        self._pass_time()

    def delete_run(self, run_id: str) -> None:
        self._pass_time()
        with self._lock:
            self.runs.pop(run_id, None)


def test_those_that_share_no_lock_agree_on_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_run, "_LOOK_EVERY_S", 0.002)
    num_contended = 0
    for seed in range(150):
        table: Any = Table(seed)
        found: list[str] = []

        def look(place: int, table: Any = table, found: list[str] = found) -> None:
            # a lock each, as on machines of their own
            url = f"of-{place}"
            found.append(find_or_create(table, "1", TAGS, "tiny", tracking_url=url))

        threads = [threading.Thread(target=look, args=(place,)) for place in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [*table.runs] * 3
        num_contended += table.num_made > 1
    # else nothing was tried here
    assert num_contended > 30


def test_those_that_share_a_lock_make_one_run() -> None:
    table: Any = Table(0)
    threads = [
        threading.Thread(target=find_or_create, args=(table, "1", TAGS, "tiny")) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.num_made == 1


def test_a_run_that_nobody_heard_of_is_taken_up_or_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_run, "_PATIENCE_S", 0.1)
    table: Any = Table(0)
    table.runs["lost"] = dict(TAGS)  # made, but its answer never came
    assert find_or_create(table, "1", TAGS, "tiny") == "lost"
    assert table.runs["lost"][SETTLED] == "yes"
    table.runs["later"] = dict(TAGS)
    assert find_or_create(table, "1", TAGS, "tiny") == "lost"
    assert [*table.runs] == ["lost"]


def test_a_run_that_is_always_deleted_is_an_error_and_no_loop() -> None:
    class Deleting(Table):
        def set_tag(self, run_id: str, key: str, value: str) -> None:
            del self.runs[run_id]

    with pytest.raises(MoescopeError, match="is deleted whenever it is made"):
        find_or_create(Deleting(0), "1", TAGS, "tiny")  # type: ignore[arg-type]
