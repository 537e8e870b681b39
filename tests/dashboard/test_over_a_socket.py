"""The dashboard's own server over a socket: who is let in, and what a forged message does."""

import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

import moescope.dashboard
from moescope.platform.commands import commands
from moescope.platform.deeds import deeds
from moescope.platform.records import Run
from moescope.platform.store import Store

pytestmark = pytest.mark.story

DOOR = Path(moescope.dashboard.__file__).parent / "door.py"
TOKEN, VIEWER_TOKEN = "a-token-that-nobody-guesses", "another-that-nobody-guesses"


@dataclass
class Seen:
    """What a page showed after one message."""

    buttons: dict[str, str] = field(default_factory=dict)
    """{label: widget id}, those that are switched off too."""
    text: str = ""


class Session:
    """Speaks to the socket as a browser does, or as somebody who forges it."""

    def __init__(self, to: ClientConnection) -> None:
        self._socket = to

    def ask(
        self,
        address: str = "",
        page: str = "",
        widgets: Sequence[WidgetState] = (),
        *,
        is_clearing: bool = False,
    ) -> Seen:
        """Asks for a page as it is after these widgets changed; waits until it is drawn."""
        message = BackMsg()
        if is_clearing:
            message.clear_cache = True
            self._socket.send(message.SerializeToString())
            message = BackMsg()
        message.rerun_script.query_string = address
        message.rerun_script.page_name = page
        message.rerun_script.widget_states.widgets.extend(widgets)
        self._socket.send(message.SerializeToString())
        seen = Seen()
        while True:
            got = ForwardMsg()
            got.ParseFromString(self._socket.recv(timeout=60))  # type: ignore[arg-type]
            kind = got.WhichOneof("type")
            if kind == "new_session":
                seen = Seen()  # a run that was begun anew
            elif kind == "delta":
                element = got.delta.new_element
                if element.HasField("button"):
                    seen.buttons[element.button.label] = element.button.id
                for told in (element.markdown.body, element.heading.body, element.text.body):
                    seen.text += f"{told}\n" if told else ""
            elif kind == "script_finished":
                finished = ForwardMsg.ScriptFinishedStatus.FINISHED_SUCCESSFULLY
                if got.script_finished == finished:
                    return seen


@contextmanager
def session(port: int, *, host: str = "", origin: str | None = "own") -> Iterator[Session]:
    """host, origin: what the headers say. Raises InvalidStatus where it is not let in."""
    own = f"127.0.0.1:{port}"
    connected = connect(
        f"ws://{host or own}/_stcore/stream",
        sock=socket.create_connection(("127.0.0.1", port)),
        origin=f"http://{own}" if origin == "own" else origin,  # type: ignore[arg-type]
        subprotocols=["streamlit"],  # type: ignore[list-item]
        open_timeout=10,
        proxy=None,
    )
    with connected as to:
        yield Session(to)


def pressed(widget_id: str) -> WidgetState:
    return WidgetState(id=widget_id, trigger_value=True)


def said(widget_id: str, text: str) -> WidgetState:
    return WidgetState(id=widget_id, string_value=text)


@pytest.fixture
def port(tmp_path: Path, store_url: str) -> Iterator[int]:
    """A dashboard as `moescope up` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    environment = os.environ | {
        "MOESCOPE_HOME": str(tmp_path / "home"),
        "MOESCOPE_STORE": store_url,
        "MOESCOPE_TOKEN": TOKEN,
        "MOESCOPE_VIEWER_TOKEN": VIEWER_TOKEN,
    }
    flags = ["--server.port", str(number), "--server.allowedHosts", "*"]
    with (tmp_path / "dashboard.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", str(DOOR), *flags],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            until_s = time.monotonic() + 30
            while _asked(number, "/_stcore/health") != 200:
                assert process.poll() is None, (tmp_path / "dashboard.log").read_text()
                assert time.monotonic() < until_s
                time.sleep(0.05)
            yield number
        finally:
            process.terminate()
            process.wait(timeout=10)


def _asked(port: int, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _shown(to: Session, token: str, run: Run, page: str) -> Seen:
    return to.ask(f"run={run.id}" + (f"&token={token}" if token else ""), page)


def test_a_forged_or_replayed_message_of_anybody_else_brings_nothing_about(
    port: int, store: Store, spiked_run: Run
) -> None:
    address = f"run={spiked_run.id}"
    with session(port) as operator:
        on_run = _shown(operator, TOKEN, spiked_run, "run").buttons
        assert {"Acknowledge", "Resolve"} <= set(on_run)
        on_control = dict(_shown(operator, TOKEN, spiked_run, "control").buttons)
        assert {"Save checkpoint…", "Pause…", "Roll back…"} <= set(on_control)
        question = [pressed(on_control["Save checkpoint…"])]
        on_control |= operator.ask(address, "control", question).buttons
        yes = on_control["Yes, save a checkpoint"]
        ids = {"run": on_run, "control": on_control}
        # what the server keeps of a session cannot be said by a message
        claims = [
            said(key, text)
            for key in ("moescope_shown_token", "moescope_name", "moescope_is_admitted", "role")
            for text in ("operator", VIEWER_TOKEN)
        ]
        for token in ("", VIEWER_TOKEN, "wrong"):
            for page, found in ids.items():
                everything = [pressed(widget_id) for widget_id in found.values()]
                with session(port) as other:
                    seen = _shown(other, token, spiked_run, page)
                    assert ("wants a token" in seen.text) == (token != VIEWER_TOKEN)
                    is_drawn = page == "control" and token == VIEWER_TOKEN
                    assert ("Save checkpoint…" in seen.buttons) == is_drawn
                    # a viewer's own are switched off, which a message need not mind
                    own = [pressed(widget_id) for widget_id in seen.buttons.values()]
                    for press in (*everything, *own):
                        other.ask(address, page, [press])
                    seen = other.ask(address, page, [*everything, *claims])
                    assert "Acknowledge" not in seen.buttons
                    assert "Yes, save a checkpoint" not in seen.buttons
                    # the address of an operator's page, with the token left out
                    other.ask(f"{address}&token=", page, everything)
        assert commands(store, spiked_run.id) == []
        assert [alert.state for alert in store.alerts()] == ["open"]
        assert deeds(store) == []
        # and the same message does it in the session of an operator: once
        operator.ask(address, "control", [pressed(yes)])
    asked = [(command.kind, command.asked_by) for command in commands(store, spiked_run.id)]
    assert asked == [("checkpoint", "operator")]


def test_nothing_of_a_run_is_said_without_a_token(port: int, store: Store, spiked_run: Run) -> None:
    with session(port) as stranger:
        seen = _shown(stranger, "", spiked_run, "run")
        assert spiked_run.name not in seen.text
        assert list(seen.buttons) == ["Sign in"]
        for page in ("", "runs", "control", "alerts", "rules", "system", "no-such-page"):
            assert spiked_run.name not in stranger.ask("", page).text


def test_nobody_empties_what_the_server_keeps_for_all(
    port: int, store: Store, spiked_run: Run
) -> None:
    with session(port) as viewer:
        assert "Save checkpoint…" in _shown(viewer, VIEWER_TOKEN, spiked_run, "control").buttons
        seen = viewer.ask(f"run={spiked_run.id}", "control", is_clearing=True)
        # it would have emptied this session's memory, too
        assert "Save checkpoint…" in seen.buttons


def test_only_a_page_of_the_dashboard_may_open_a_socket(port: int, store: Store) -> None:
    own = f"http://127.0.0.1:{port}"
    for host, origin in (
        ("", "http://evil.example"),
        ("", f"http://127.0.0.1:{port + 1}"),  # another server on this machine
        ("", "null"),
        ("", None),
        (f"evil.example:{port}", f"http://evil.example:{port}"),  # DNS rebinding
        (f"evil.example:{port}", own),
    ):
        began_s = time.monotonic()
        with pytest.raises(InvalidStatus) as refused, session(port, host=host, origin=origin):
            pass
        assert refused.value.response.status_code == 403, (host, origin)
        # nobody in the internet was asked who we are
        assert time.monotonic() - began_s < 1
    with session(port, host=f"localhost:{port}", origin=f"http://localhost:{port}") as known:
        assert "wants a token" in known.ask().text
    assert _asked(port, "/", Host="evil.example") == 403
    assert _asked(port, "/", Host=f"localhost:{port}") == 200


def test_without_the_door_streamlit_itself_turns_other_names_away() -> None:
    """For who starts app.py by itself: what config.toml beside it says."""
    server = tomllib.loads((DOOR.parent / ".streamlit" / "config.toml").read_text())["server"]
    assert server["allowedHosts"] == ["localhost", "127.0.0.1", "::1"]
    assert (server["enableCORS"], server["enableXsrfProtection"]) == (True, True)
    assert server["address"] == "127.0.0.1"
