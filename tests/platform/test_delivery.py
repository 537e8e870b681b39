"""Alerts reach people, each once, again where sending failed; the failure is written down."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moescope.cli import app
from moescope.platform import leases
from moescope.platform.delivery import (
    LEASE,
    TOO_OLD_S,
    Deliverer,
    DeliveryRound,
    DeliveryThread,
)
from moescope.platform.errors import MoescopeError
from moescope.platform.records import Alert, AlertState, Run
from moescope.platform.silences import end_silence
from moescope.platform.store import Store, open_store

# apprise 2.2 looks for imghdr, which Python 3.13 no longer has; goes when apprise stops looking
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

NOW_S = 1000.0


class Receiver:
    """A real server that a message is posted to."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.messages.append(json.loads(body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    opened.add_run(Run("r1", "tiny-1", "p", {}, "running", "cpu", "0", 1.0, 1.0))
    yield opened
    opened.close()


def alert(name: str = "a1", **fields: Any) -> Alert:
    made = Alert(
        name, "r1", 0, "spike", "critical", 310, 313, 9.0, 4.0, "loss is 9 sigma up", NOW_S, name
    )
    return replace(made, **fields)


def test_a_message_says_run_rule_severity_and_steps(receiver: Receiver) -> None:
    assert Deliverer([receiver.url]).send(alert(), "tiny-1") == ""
    (message,) = receiver.messages
    assert message["title"] == "[critical] tiny-1: spike"
    assert "loss is 9 sigma up" in message["message"]
    assert "onset step 310, fired at step 313" in message["message"]
    assert message["type"] == "failure"


def test_a_message_leads_to_the_page_of_its_incident_without_a_token(receiver: Receiver) -> None:
    Deliverer([receiver.url], "http://node1:8501/").send(alert("a/1?x"), "tiny-1")
    Deliverer([receiver.url]).send(alert(), "tiny-1")
    linked, bare = (message["message"] for message in receiver.messages)
    assert linked.splitlines()[-1] == "http://node1:8501/incidents?alert=a%2F1%3Fx"
    assert "token" not in linked
    assert "http" not in bare


def test_every_service_that_fails_is_named(receiver: Receiver) -> None:
    receiver.status = 500
    failure = Deliverer([receiver.url]).send(alert(), "tiny-1")
    assert failure.startswith("JSON:")
    assert "500" in failure
    assert "\n" not in failure


def test_an_address_that_cannot_be_read_is_one_line_without_its_secret() -> None:
    with pytest.raises(MoescopeError, match="notify address nosuch:") as caught:
        Deliverer(["nosuch://user:secret@host"])
    assert "secret" not in str(caught.value)


def test_an_alert_is_sent_once(store: Store, receiver: Receiver) -> None:
    store.put_alert(alert())
    delivery = DeliveryRound(Deliverer([receiver.url]))
    assert delivery.go(store, NOW_S) == 1
    assert delivery.go(store, NOW_S + 100) == 0
    assert len(receiver.messages) == 1


def test_what_failed_is_written_down_and_tried_again_later(
    store: Store, receiver: Receiver
) -> None:
    store.put_alert(alert())
    receiver.status = 503
    delivery = DeliveryRound(Deliverer([receiver.url]))
    assert delivery.go(store, NOW_S) == 0
    assert [waiting.id for waiting in store.undelivered_alerts(NOW_S)] == ["a1"]
    assert "503" in store.delivery_failures("r1")["a1"]
    receiver.status = 200
    assert delivery.go(store, NOW_S + 1) == 0, "not before its time"
    assert delivery.go(store, NOW_S + 6) == 1
    assert store.undelivered_alerts(NOW_S) == []


@pytest.mark.parametrize("state", ["acknowledged", "silenced", "resolved"])
def test_what_a_person_has_dealt_with_is_not_sent(
    store: Store, receiver: Receiver, state: AlertState
) -> None:
    store.put_alert(alert())
    store.set_alert_state("a1", state, "ann", NOW_S)
    assert DeliveryRound(Deliverer([receiver.url])).go(store, NOW_S) == 0
    assert receiver.messages == []


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"severity": "info"}, id="information"),
        pytest.param({"created_s": NOW_S - TOO_OLD_S - 1}, id="of yesterday"),
    ],
)
def test_what_nobody_needs_to_be_told_is_not_sent(
    store: Store, receiver: Receiver, fields: dict[str, Any]
) -> None:
    store.put_alert(alert(**fields))
    assert DeliveryRound(Deliverer([receiver.url])).go(store, NOW_S) == 0
    assert receiver.messages == []


def test_without_addresses_alerts_stay_for_whoever_has_some(store: Store) -> None:
    store.put_alert(alert())
    assert DeliveryRound(Deliverer([])).go(store, NOW_S) == 0
    assert len(store.undelivered_alerts(NOW_S)) == 1


def test_a_trainer_alone_delivers_even_the_alert_of_its_last_moment(
    store: Store, receiver: Receiver
) -> None:
    thread = DeliveryThread(store.url, [receiver.url], "trainer", every_s=5.0)
    store.put_alert(alert(created_s=time.time()))
    thread.close()
    assert len(receiver.messages) == 1
    assert leases.holder(store, LEASE, time.time()) is None


def test_a_trainer_leaves_delivery_to_the_service_that_does_it(
    store: Store, receiver: Receiver
) -> None:
    leases.claim(store, LEASE, "service", time.time(), 60.0)
    store.put_alert(alert(created_s=time.time()))
    thread = DeliveryThread(store.url, [receiver.url], "trainer", every_s=0.02)
    time.sleep(0.2)
    thread.close()
    assert receiver.messages == []


def test_a_message_says_what_to_do(receiver: Receiver) -> None:
    Deliverer([receiver.url]).send(alert(evidence={"advice": "Look at the clips."}), "tiny-1")
    Deliverer([receiver.url]).send(alert(rule="stalled"), "tiny-1")
    first, second = (message["message"] for message in receiver.messages)
    assert first.endswith("Look at the clips.")
    assert "py-spy dump" in second


def test_a_silence_stops_delivery_for_its_time_and_then_ends(
    store: Store, receiver: Receiver
) -> None:
    delivery = DeliveryRound(Deliverer([receiver.url]))
    store.put_alert(alert(dedupe_key="r1/spike"))
    assert delivery.go(store, NOW_S) == 1
    store.set_alert_state("a1", "silenced", "ann", NOW_S, NOW_S + 600)
    # a further one of the same kind, and one of another
    store.put_alert(alert("a2", dedupe_key="r1/spike", created_s=NOW_S + 10))
    store.put_alert(alert("b1", rule="drift", dedupe_key="r1/drift", created_s=NOW_S + 10))
    assert delivery.go(store, NOW_S + 599) == 1
    assert [message["title"][-5:] for message in receiver.messages] == ["spike", "drift"]
    assert delivery.go(store, NOW_S + 600) == 2
    assert store.alert("a1").state == "open"
    assert delivery.go(store, NOW_S + 700) == 0


def test_a_silence_longer_than_alerts_are_sent_for_still_ends(
    store: Store, receiver: Receiver
) -> None:
    store.put_alert(alert())
    store.set_alert_state("a1", "silenced", "ann", NOW_S, NOW_S + 3 * TOO_OLD_S)
    delivery = DeliveryRound(Deliverer([receiver.url]))
    assert delivery.go(store, NOW_S + 2 * TOO_OLD_S) == 0
    assert delivery.go(store, NOW_S + 3 * TOO_OLD_S) == 1


@pytest.mark.parametrize("way", ["end", "open"])
def test_what_a_silence_for_ever_held_back_is_sent_when_a_person_ends_it(
    store: Store, receiver: Receiver, way: str
) -> None:
    delivery = DeliveryRound(Deliverer([receiver.url]))
    store.put_alert(alert())
    assert delivery.go(store, NOW_S) == 1
    store.set_alert_state("a1", "silenced", "ann", NOW_S)
    store.put_alert(alert("a2", created_s=NOW_S + 10))
    store.put_alert(alert("seen", created_s=NOW_S + 10))
    store.set_alert_state("seen", "acknowledged", "ann", NOW_S + 20)
    late_s = NOW_S + 3 * TOO_OLD_S
    assert delivery.go(store, late_s) == 0
    if way == "end":
        assert end_silence(store, "r1", "spike", "ann", late_s)
    else:
        store.set_alert_state("a1", "open", "ann", late_s)
    # the one that was told before the silence calls again, as it does when its time is over
    assert delivery.go(store, late_s + 1) == 2
    assert delivery.go(store, late_s + 2) == 0
    assert store.alert("a1").changed_by == "ann"
    assert len(receiver.messages) == 3


def test_a_silence_holds_though_its_alert_heals_and_then_ends(
    store: Store, receiver: Receiver
) -> None:
    delivery = DeliveryRound(Deliverer([receiver.url]))
    kind = {"rule": "heartbeat_lost"}
    store.put_alert(alert(dedupe_key="r1/heartbeat_lost/1", **kind))
    assert delivery.go(store, NOW_S) == 1
    store.set_alert_state("a1", "silenced", "ann", NOW_S, NOW_S + 7200)
    # another key for each time that the run falls silent, as the watchman has it
    store.put_alert(alert("a2", created_s=NOW_S + 30, dedupe_key="r1/heartbeat_lost/2", **kind))
    store.set_alert_state("a1", "resolved", "watchman", NOW_S + 60)
    store.put_alert(alert("a3", created_s=NOW_S + 90, dedupe_key="r1/heartbeat_lost/3", **kind))
    healed = alert("a4", created_s=NOW_S + 95, state="resolved", changed_s=NOW_S + 99, **kind)
    store.put_alert(healed)
    for now_s in (NOW_S + 120, NOW_S + 7199):
        assert delivery.go(store, now_s) == 0
    # what still stands calls, what healed meanwhile does not
    assert delivery.go(store, NOW_S + 7200) == 2
    store.put_alert(alert("a5", created_s=NOW_S + 7300, **kind))
    assert delivery.go(store, NOW_S + 7300) == 1


def test_a_silence_ends_where_nobody_is_told_too(store: Store) -> None:
    store.put_alert(alert())
    store.set_alert_state("a1", "silenced", "ann", NOW_S, NOW_S + 60)
    DeliveryRound(Deliverer([])).go(store, NOW_S + 60)
    assert store.alert("a1").state == "open"


def test_an_address_that_nobody_answers_at_is_one_line_and_the_others_are_reached(
    store: Store, receiver: Receiver
) -> None:
    store.put_alert(alert())
    delivery = DeliveryRound(Deliverer(["json://127.0.0.1:9", receiver.url]))
    assert delivery.go(store, NOW_S) == 0
    assert len(receiver.messages) == 1
    failure = store.delivery_failures("r1")["a1"]
    assert failure.startswith("JSON: ")
    assert "\n" not in failure
    assert store.delivery_failures(since_s=NOW_S + 1) == {}


def test_each_channel_is_tried_and_says_what_came_of_it(receiver: Receiver) -> None:
    invoke = CliRunner().invoke
    found = invoke(app, ["alerts", "test-channel", receiver.url])
    assert (found.exit_code, found.stdout) == (0, "JSON: sent\n")
    assert receiver.messages[0]["title"] == "moescope: a test"
    words = ["alerts", "test-channel", "json://127.0.0.1:9", receiver.url, "--json"]
    found = invoke(app, words)
    assert found.exit_code == 1
    assert [bool(row["failure"]) for row in json.loads(found.stdout)] == [True, False]
    assert len(receiver.messages) == 2
