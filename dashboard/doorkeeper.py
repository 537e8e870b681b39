"""What comes in from where: names that the dashboard answers to, and pages that may speak to it.

A page of somebody else that a person has open can send requests and open sockets to this address,
and by a name of its own that leads here (DNS rebinding) even as if it belonged here. It gets no
token by that, but nothing else either: a request's Host must be a name of the dashboard's, or an
address in numbers, which no name service can turn; a socket's Origin must be that same host and
port, or the host that people reach it under. A browser always sends one. Streamlit's own check
looks at the host's name without its port, so that it takes every page of another user's server on
this machine for its own, and asks an address in the internet who it is before it refuses one.
"""

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg

from ..platform.settings import Settings

HEADERS = {
    # a page that shows this one inside itself could have a person click what they do not see
    b"content-security-policy": b"frame-ancestors 'self'",
    b"x-frame-options": b"SAMEORIGIN",
    # an address may carry a token
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
}


FOR_DEVELOPERS = frozenset({"clear_cache", "set_run_on_save"})
"""Messages that Streamlit obeys whoever sends them: the first empties what it keeps for all."""


def names_of(settings: Settings) -> frozenset[str]:
    """The names, in small letters, that the dashboard answers to."""
    found = {"localhost", settings.host.lower()}
    if settings.host not in ("localhost", "::1") and not settings.host.startswith("127."):
        found |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    if settings.dashboard_url:
        found.add(reached_host(settings))
    return frozenset(found - {"", "0.0.0.0", "::"})


def reached_host(settings: Settings) -> str:
    """The host of MOESCOPE_DASHBOARD_URL, which a proxy may have; empty where it is not set."""
    return (_split(settings.dashboard_url.partition("://")[2].partition("/")[0]) or ("", 0))[0]


def why_refused(
    host: str, origin: str | None, names: Collection[str], reached: str = "", *, is_socket: bool
) -> str:
    """Why a request is not let in, on one line; empty where it is. reached: the host of a proxy."""
    asked = _split(host)
    if asked is None:
        return "the request names no host that can be read"
    if asked[0] not in names and not _is_numbers(asked[0]):
        return (
            f"this dashboard does not answer to the name {asked[0]}: if people reach it under this "
            "name, set MOESCOPE_DASHBOARD_URL"
        )
    if origin is None:
        return "a socket wants an Origin, which every browser sends" if is_socket else ""
    scheme, _, rest = origin.partition("://")
    came_from = _split(rest) if scheme in ("http", "https") else None
    # behind a proxy Host may be what the proxy calls it by, and then a port says nothing either
    if came_from is None or (came_from != asked and not (reached and came_from[0] == reached)):
        return "a page of another origin may not speak to this dashboard"
    return ""


def _split(netloc: str) -> tuple[str, int] | None:
    """(name in small letters, port; 0 where none is said); None of what is not just that."""
    try:
        parts = urlsplit(f"//{netloc}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not name or parts.path or parts.query or parts.fragment or "@" in netloc:
        return None
    return name.lower().rstrip("."), port or 0


def _is_numbers(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_for_developers(sent: bytes | None) -> bool:
    """Whether a message of a socket is one that no page of the dashboard sends."""
    if not sent:
        return False
    message = BackMsg()
    try:
        message.ParseFromString(sent)
    except DecodeError:
        return False  # the server ends the socket
    return message.WhichOneof("type") in FOR_DEVELOPERS


class Doorkeeper:
    """Stands before Streamlit's server: turns away what may not come in, and adds the headers."""

    def __init__(self, app: ASGIApp, names: Collection[str], reached: str = "") -> None:
        self._app = app
        self._names = names
        self._reached = reached

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        is_socket = scope["type"] == "websocket"
        refusal = why_refused(host, origin, self._names, self._reached, is_socket=is_socket)
        if refusal:
            await _refuse(refusal, receive, send, is_socket=is_socket)
            return
        if origin is not None:
            # looked at here; to Streamlit's own check a proxy's would be of another origin
            own = (b"origin", f"http://{host}".encode("latin-1"))
            rest = [pair for pair in scope["headers"] if pair[0] != b"origin"]
            scope = {**scope, "headers": [*rest, own]}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name.lower() for name, _ in message.get("headers", ())}
                added = [(name, value) for name, value in HEADERS.items() if name not in said]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        async def receive_what_is_for_users() -> Message:
            while True:
                message = await receive()
                if not is_for_developers(message.get("bytes")):
                    return message

        await self._app(
            scope, receive_what_is_for_users if is_socket else receive, send_with_headers
        )


async def _refuse(why: str, receive: Receive, send: Send, *, is_socket: bool) -> None:
    if is_socket:
        await receive()
        # before it is accepted, which a server answers with 403
        await send({"type": "websocket.close", "code": 1008, "reason": why[:120]})
        return
    body = f"{why}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *HEADERS.items(),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
