"""Serves the page at `/metrics` to whoever shows one of the tokens, as a bearer token."""

import hmac
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import TCPServer

from prometheus_client.exposition import choose_encoder

from .page import Page

PATH = "/metrics"


class MetricsServer:
    """A server in threads of its own. It reads; nothing can be asked of a run through it."""

    def __init__(self, host: str, port: int, page: Page, tokens: Sequence[str]) -> None:
        """tokens: each lets in. Raises OSError where the port cannot be had."""

        class Server(ThreadingHTTPServer):
            address_family = AF_INET6 if ":" in host else AF_INET
            daemon_threads = True

            def server_bind(self) -> None:
                # HTTPServer asks the name service who we are, which may take its time
                TCPServer.server_bind(self)

        class Handler(_Handler):
            pass

        Handler.page, Handler.tokens = page, tuple(tokens)
        self._server = Server((host, port), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    page: Page
    tokens: tuple[str, ...]
    server_version = "moescope"
    sys_version = ""
    timeout = 10.0
    """Seconds that a connection may stay silent."""

    def do_GET(self) -> None:
        # as bytes: text of other scripts cannot be compared in constant time
        shown = self.headers.get("Authorization", "").encode()
        # each is compared, so that the time does not tell which one is near
        right = [hmac.compare_digest(shown, f"Bearer {t}".encode()) for t in self.tokens if t]
        if not any(right):
            self._answer(401, b"a bearer token is wanted: one of the dashboard's\n")
        elif self.path.partition("?")[0] != PATH:
            self._answer(404, f"there is nothing here but {PATH}\n".encode())
        else:
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(self.page), kind)

    def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        if code == 401:
            self.send_header("WWW-Authenticate", 'Bearer realm="moescope"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is no news."""
