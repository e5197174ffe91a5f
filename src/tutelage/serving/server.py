"""A local page on which models answer typed texts, served with the standard library alone."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tutelage.errors import TutelageError, last_reason, option
from tutelage.report.templates import render

LONGEST_BODY = 2**20
"""Bytes of a request's body."""
DRAINED = 2**24
"""Of a body that is too long so many bytes are read and dropped: a client that still writes does not read the answer."""
PATIENCE = 30.0
"""Seconds that a client may take to send its request."""

PAGE = Path(__file__).with_name("page")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The page loads nothing but its own files and asks nobody but its own server."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Answer = Callable[[str, str | None], Any]
"""The answers to a text, or to a pair of texts, as JSON; a text that cannot be answered raises a TutelageError."""


class Server:
    """The page at :attr:`address`, served by threads of this process until :meth:`close`. A context manager.

    Args:
        about: What ``GET /about`` returns: what the page says of the models.
        answer: Answers ``POST /answer``; texts are answered one after the other, so that each has the machine for itself.
        host: The address to listen on. Anything but a loopback address lets other machines ask.
        port: The port; 0 for any free one.

    Raises:
        TutelageError: nothing can listen there.
    """

    def __init__(self, about: Any, answer: Answer, host: str = "127.0.0.1", port: int = 0) -> None:
        files: dict[str, tuple[str, bytes]] = {
            "/": ("text/html", (PAGE / "page.html").read_bytes()),
            "/page.js": ("text/javascript", (PAGE / "page.js").read_bytes()),
            "/page.css": ("text/css", render("style.css.jinja").encode() + (PAGE / "page.css").read_bytes()),
            "/about": ("application/json", json.dumps(about).encode()),
        }
        handler = type("PageHandler", (_Handler,), {"files": files, "answer": _in_turn(answer), "host": host})
        if not 0 <= port < 2**16:
            raise TutelageError(f"{option('port')} {port} is no port; give a number from 0 (any free one) to 65535")
        try:
            family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            kind = type("PageListener", (_Listener,), {"address_family": family})
            self._server = kind(place[:2], handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TutelageError(
                f"the page cannot be served at {host!r}, port {port} ({reason}); give another {option('host')} or "
                f"{option('port')}, or leave them out"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self._server.server_address[1]}/"
        bound = _address(str(self._server.server_address[0]))
        self.open_to_others = bound is None or not bound.is_loopback
        self._thread = threading.Thread(target=self._server.serve_forever, name="tutelage-page", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the page is closed, or on Ctrl-C, which closes it."""
        try:
            while self._thread.is_alive():
                self._thread.join(1.0)
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _in_turn(answer: Answer) -> Answer:
    lock = threading.Lock()

    def answered(text: str, pair: str | None) -> Any:
        with lock:
            return answer(text, pair)

    return staticmethod(answered)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a name is; None for a name that has to be looked up."""
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None


class _Listener(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away before it has its answer is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """Known paths only: no path of a request ever becomes one of this machine."""

    files: dict[str, tuple[str, bytes]]
    answer: Answer
    host: str
    server_version, sys_version = "tutelage", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        self._reply(self._file)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._reply(self._answer)

    def _reply(self, found: Callable[[], tuple[str, bytes]]) -> None:
        try:
            self._check_host()
            kind, content = found()
        except _Refused as error:
            self.send_error(error.status, str(error))
        except TutelageError as error:
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
        except TimeoutError:
            self.send_error(HTTPStatus.REQUEST_TIMEOUT, f"the request took longer than {PATIENCE:.0f} seconds")
        except ConnectionError:
            raise
        except Exception as error:  # of a model's code: the page says so, and goes on
            self.send_error(
                HTTPStatus.INTERNAL_SERVER_ERROR, f"the model cannot answer this text: {last_reason(error)}"
            )
        else:
            self._send(HTTPStatus.OK, kind, content)

    def _check_host(self) -> None:
        """Refuse a name that somebody else has pointed at this machine (DNS rebinding): pages under it could read the answers."""
        given = self.headers.get("Host", "")
        try:
            name = urlsplit(f"//{given}").hostname or ""
        except ValueError:
            name = ""
        if _address(name) is None and name not in {"localhost", self.host.lower(), socket.gethostname().lower()}:
            raise _Refused(
                HTTPStatus.FORBIDDEN, f"this page is not served under the name {given!r}; open it by its address"
            )

    def _file(self) -> tuple[str, bytes]:
        path = urlsplit(self.path).path
        if path not in self.files:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here; the page is at /")
        return self.files[path]

    def _answer(self) -> tuple[str, bytes]:
        if urlsplit(self.path).path != "/answer":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here; texts go to /answer")
        tree = self._json()
        if not isinstance(tree, dict) or not tree.keys() <= {"text", "pair"}:
            raise _Refused(HTTPStatus.BAD_REQUEST, 'the request is not {"text": "...", "pair": "..."}')
        text, pair = tree.get("text"), tree.get("pair")
        for name, value in (("text", text), *([] if pair is None else [("pair", pair)])):
            if not isinstance(value, str) or not value.strip():
                raise _Refused(HTTPStatus.BAD_REQUEST, f"{name!r} is no text; give a string that is not blank")
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise _Refused(
                    HTTPStatus.BAD_REQUEST, f"{name!r} holds half a character (a lone surrogate); correct it"
                )
        return "application/json", json.dumps(type(self).answer(str(text), pair)).encode()

    def _json(self) -> Any:
        """The body as JSON. Other types are refused: a browser sends them from any page without asking."""
        if self.headers.get_content_type() != "application/json":
            self._drain()
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be JSON (Content-Type: application/json)")
        length = self._length()
        if length is None:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is (Content-Length)")
        if length > LONGEST_BODY:
            self._drain()
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request is longer than {LONGEST_BODY:,} bytes; send fewer texts",
            )
        try:
            return json.loads(self.rfile.read(length))
        except (ValueError, RecursionError):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON in UTF-8") from None

    def _length(self) -> int | None:
        given = self.headers.get("Content-Length", "")
        return int(given) if re.fullmatch("[0-9]{1,18}", given) else None

    def _drain(self) -> None:
        left = min(self._length() or 0, DRAINED)
        while left > 0 and (block := self.rfile.read(min(left, 2**16))):
            left -= len(block)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line of JSON; the parser of requests calls this too."""
        status = HTTPStatus(code)
        self._send(status, "application/json", json.dumps({"error": message or status.phrase}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each request would hide the address."""
