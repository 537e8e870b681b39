"""A command line of its own home, and a run with segments, odd numbers, vectors and a matrix."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from moescope.cli import app
from moescope.platform import catalogue
from moescope.platform.records import Event, Frame, Run, Segment
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store

RUN = "20260101-000000-aaaaaa"
Invoke = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def moescope(home: Path) -> Invoke:
    def invoke(*words: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == exit_code, result.output + repr(result.exception)
        return result

    return invoke


@pytest.fixture
def refused(moescope: Invoke) -> Callable[..., str]:
    """Runs a command that is refused; returns its one line."""

    def invoke(*words: str) -> str:
        result = moescope(*words, exit_code=2)
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        return lines[0]

    return invoke


@pytest.fixture
def own_store(home: Path) -> Iterator[Store]:
    settings = Settings(home=home)
    settings.make_home()
    with open_store(settings.store_url) as opened:
        yield opened


def a_run(**fields: Any) -> Run:
    known: dict[str, Any] = {
        "id": RUN,
        "name": "swift/otter",
        "project": "clips",
        "config": {"recipe": "tiny", "optim": {"learning_rate": 3e-4}},
        "status": "finished",
        "device": "cpu",
        "code_version": "0.1.0",
        "created_s": 1_750_000_000.25,
        "heartbeat_s": 1_750_000_900.0,
        "finished_s": 1_750_000_901.0,
        "tags": ("first", "äöü"),
        "note": "a note\nof two lines",
    }
    return Run(**{**known, **fields})


@pytest.fixture
def odd_run(own_store: Store) -> Run:
    """60 steps; a rollback at 39 to 30. Non-finite values, subnormal ones, gaps, a vector whose
    length changes, a matrix, a signal of three dimensions."""
    run = a_run()
    own_store.add_run(run)
    own_store.add_segment(Segment(RUN, 0, 0, "start", run.created_s))
    own_store.add_segment(
        Segment(RUN, 1, 30, "rollback", run.created_s + 40, 0, 29, "alert-1", {"a.b": [1, 2]})
    )
    own_store.add_event(Event(RUN, 0, 39, run.created_s + 40, "rollback", "went back", {"x": 1}))
    chance = np.random.default_rng(0)
    frames = []
    for segment, first, last in ((0, 0, 39), (1, 30, 59)):
        for step in range(first, last + 1):
            values: dict[str, Any] = {
                catalogue.LOSS_TOTAL: np.float32(chance.normal()),
                'user/odd name, with "quotes"': np.float32(1e-42 * step),
            }
            odd = {7: np.nan, 8: np.inf, 9: -np.inf, 35: np.nan}
            if step in odd:
                values[catalogue.LOSS_TOTAL] = np.float32(odd[step])
            if step % 3 == 0:
                values[catalogue.GRAD_NORM] = np.float32(np.exp(chance.normal()))
            if step % 10 == 0:
                values[catalogue.GRAD_LAYER_NORM] = chance.random(3 + segment, np.float32)
                load = chance.random((2, 5), np.float32)
                load[0, 1] = np.nan
                values[catalogue.EXPERT_LOAD] = load
                values[catalogue.ROUTING_BY_KIND] = chance.random((2, 3, 5), np.float32)
            time_s = run.created_s + step + segment * 40
            frames.append(Frame(RUN, segment, step, time_s, values))
    own_store.write_frames(frames)
    return run
