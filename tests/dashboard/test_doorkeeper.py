"""A page of somebody else, or a name of theirs that leads here, gets nothing."""

import asyncio
from typing import Any

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg

from moescope.dashboard.doorkeeper import (
    HEADERS,
    Doorkeeper,
    is_for_developers,
    names_of,
    reached_host,
    why_refused,
)
from moescope.platform.settings import Settings

NAMES = frozenset({"localhost", "127.0.0.1", "node1"})


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8501", "127.0.0.1:8501", "[::1]:8501", "10.0.0.5:80", "node1.:8501"],
)
def test_names_of_the_dashboard_and_numbers_are_let_in(host: str) -> None:
    assert why_refused(host, None, NAMES, is_socket=False) == ""
    assert why_refused(host, f"http://{host}", NAMES, is_socket=True) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8501",  # leads to 127.0.0.1: DNS rebinding
        "localhost.evil.example",
        "node1.evil.example",
        "127.0.0.1.evil.example",
        "127.1:8501",  # a name service may be asked for it
        "user@localhost",
        "localhost/x",
        "localhost:port",
        "",
    ],
)
def test_a_host_that_others_may_own_is_refused(host: str) -> None:
    assert why_refused(host, None, NAMES, is_socket=False)
    assert why_refused(host, f"http://{host}", NAMES, is_socket=True)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:9000",  # another user's server on this machine
        "http://127.0.0.1:8501",  # the same place by another name keeps another storage
        "http://localhost",
        "null",  # a sandboxed frame, a file
        "file://",
        "",
        "http://localhost:8501@evil.example",
        "chrome-extension://localhost:8501",
    ],
)
def test_a_page_of_another_origin_may_not_speak_to_it(origin: str) -> None:
    for is_socket in (True, False):
        assert why_refused("localhost:8501", origin, NAMES, is_socket=is_socket)


def test_a_socket_without_an_origin_comes_from_no_browser() -> None:
    assert "wants an Origin" in why_refused("localhost", None, NAMES, is_socket=True)


def test_behind_a_proxy_the_name_that_people_see_counts() -> None:
    settings = Settings(dashboard_url="https://Moescope.example/")
    reached, names = reached_host(settings), names_of(settings)
    assert reached == "moescope.example"
    for host in ("moescope.example", "127.0.0.1:8501"):  # passed on, or put anew
        assert not why_refused(host, "https://moescope.example", names, reached, is_socket=True)
    assert why_refused("127.0.0.1:8501", "https://x.example", names, reached, is_socket=True)


def test_on_all_interfaces_it_answers_to_the_machines_name_and_not_to_any() -> None:
    names = names_of(Settings(host="0.0.0.0"))
    assert "localhost" in names
    assert names & {"0.0.0.0", ""} == set()
    assert why_refused("evil.example", None, names, is_socket=False)


def test_messages_for_developers_are_told_from_those_of_a_page() -> None:
    asked, cleared, other = BackMsg(), BackMsg(), BackMsg()
    asked.rerun_script.query_string = "run=x"
    cleared.clear_cache = True
    other.set_run_on_save = True
    assert [is_for_developers(m.SerializeToString()) for m in (asked, cleared, other)] == [
        False,
        True,
        True,
    ]
    assert not is_for_developers(None)
    assert not is_for_developers(b"no message")


async def _served(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        own = [(b"x-frame-options", b"DENY"), (b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": own})
        await send({"type": "http.response.body", "body": b"page"})
    else:
        await send({"type": "websocket.accept", "heard": dict(scope["headers"])})


def _answers(kind: str, **headers: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    scope = {
        "type": kind,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    keeper = Doorkeeper(_served, NAMES, "moescope.example")  # type: ignore[arg-type]
    asyncio.run(keeper(scope, receive, send))  # type: ignore[arg-type]
    return sent


def test_what_is_refused_never_reaches_the_server() -> None:
    start, body = _answers("http", host="evil.example")
    assert start["status"] == 403
    assert b"does not answer to the name evil.example" in body["body"]
    (closed,) = _answers("websocket", host="localhost", origin="http://evil.example")
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)


def test_every_page_forbids_others_to_show_it_inside_theirs_and_tells_no_address() -> None:
    start, _ = _answers("http", host="localhost")
    headers = dict(start["headers"])
    assert headers[b"x-frame-options"] == b"DENY"  # what the server says by itself stays
    assert headers[b"referrer-policy"] == b"no-referrer"
    assert set(HEADERS) <= set(headers)
    assert len(headers) == len(start["headers"])


def test_what_was_let_in_is_of_the_same_origin_to_the_server_behind() -> None:
    (accepted,) = _answers("websocket", host="127.0.0.1:8501", origin="https://moescope.example")
    assert accepted["heard"][b"origin"] == b"http://127.0.0.1:8501"
