"""The service's ticks against a real store."""

from pathlib import Path

import numpy as np
import pytest

from moescope.platform import leases
from moescope.platform.alert_kinds import HEARTBEAT_LOST
from moescope.platform.catalogue import LOSS_TOTAL
from moescope.platform.delivery import LEASE
from moescope.platform.engines import StoreAway
from moescope.platform.records import Alert, Frame, Run, Segment
from moescope.platform.service_ticks import ServiceTicks
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store

# apprise 2.2 looks for imghdr, which Python 3.13 no longer has; goes when apprise stops looking
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run_that_reached(store: Store, step: int) -> None:
    store.add_run(Run("r1", "tiny-1", "p", {}, "running", "cpu", "0", 900.0, 1000.0))
    store.add_segment(Segment("r1", 0, 0, "start", 900.0))
    store.add_segment(Segment("r1", 1, 0, "resume", 900.0, 0, 4))
    loss = {LOSS_TOTAL: np.ones((), np.float32)}
    store.write_frames([Frame("r1", 1, step, 999.0, loss)])


def test_a_silent_run_gets_an_alert_that_goes_when_it_beats_again(
    tmp_path: Path, clock: Clock
) -> None:
    settings = Settings(home=tmp_path)
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    run_that_reached(store, 17)
    ticks = ServiceTicks(settings, store.url, store, "me", clock=clock)
    ticks.watch()
    assert store.alerts("r1") == []
    clock.now_s = 1040.0
    ticks.watch()
    ticks.watch()
    (alert,) = store.alerts("r1")
    assert (alert.rule, alert.state) == (HEARTBEAT_LOST, "open")
    assert (alert.segment, alert.fired_step) == (1, 17)
    store.update_run("r1", heartbeat_s=1041.0)
    clock.now_s = 1042.0
    ticks.watch()
    assert store.alert(alert.id).state == "resolved"
    assert store.alert(alert.id).changed_by == "watchman"
    store.close()


def test_silence_while_the_store_was_away_is_not_held_against_the_run(
    tmp_path: Path, clock: Clock
) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    run_that_reached(store, 17)
    ticks = ServiceTicks(Settings(home=tmp_path), store.url, store, "me", clock=clock)
    (tmp_path / "store.db").rename(tmp_path / "elsewhere.db")
    clock.now_s = 1100.0
    with pytest.raises(StoreAway):
        ticks.watch()
    (tmp_path / "elsewhere.db").rename(tmp_path / "store.db")
    clock.now_s = 1110.0
    ticks.watch()
    assert store.alerts("r1") == []
    clock.now_s = 1131.0
    ticks.watch()
    assert len(store.alerts("r1")) == 1
    store.close()


def test_the_service_does_not_deliver_beside_a_trainer(tmp_path: Path, clock: Clock) -> None:
    # nobody listens there: an attempt would be noted as a failure
    settings = Settings(home=tmp_path, notify="json://127.0.0.1:9/")
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    run_that_reached(store, 17)
    store.put_alert(Alert("a1", "r1", 0, "s", "critical", 1, 2, 1.0, 1.0, "up", 1000.0, "a1"))
    ticks = ServiceTicks(settings, store.url, store, "me", clock=clock)
    leases.claim(store, LEASE, "trainer", clock.now_s, 30.0)
    ticks.deliver()
    assert store.delivery_failures("r1") == {}
    clock.now_s += 31
    ticks.deliver()
    assert "JSON" in store.delivery_failures("r1")["a1"]
    store.close()
