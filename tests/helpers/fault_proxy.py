"""A proxy in front of a real S3 server that breaks requests on purpose, by a script or by seeded chance."""

import http.client
import random
import select
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from urllib.parse import urlsplit

_ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
# What is answered in place of the server: status, S3's code, message, seconds by which the store's clock is ahead.
_ANSWERS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again.", 0),
    "503": (503, "SlowDown", "Please reduce your request rate.", 0),
    "skew": (403, "RequestTimeTooSkewed", "The difference between the request time and the server's time is too large.", 3600),
    "404": (404, "NoSuchKey", "The specified key does not exist.", 0),
    "403": (403, "AccessDenied", "Access Denied", 0),
}
# reset: before the server saw the request. reset_body: when the server has done its work, halfway through its answer.
# truncated: the connection ends early. short: an early end that Content-Length confirms. flip: one byte is another.
# flip_sent, only by name: one byte of what the client sends is another when it reaches the server.
_BODY = ("truncated", "short", "flip")
FAULTS = ("500", "503", "skew", "reset", "reset_body", "truncated", "short", "stall", "flip")
UNCHECKED = tuple(fault for fault in FAULTS if fault != "flip")  # those that a reader notices without a checksum


def evenly(share: float, faults: tuple[str, ...] = UNCHECKED) -> dict[str, float]:
    """Gives equal chances for all faults, which add up to ``share``."""
    return dict.fromkeys(faults, share / len(faults))


@dataclass
class FaultProxy:
    """What is broken, and what was. Settings may change between requests; ``url`` is where clients go."""

    server: str
    url: str = ""
    chances: Mapping[str, float] = field(default_factory=dict)
    script: deque[str] = field(default_factory=deque)  # one fault for each of the next requests that it fits
    touches: Callable[[str, str], bool] = lambda method, path: True  # which requests may be broken
    passed: Callable[[str, str, int, int], None] = lambda method, path, sent, received: None  # told of every answered request
    requests: int = 0  # that could have been broken
    ranges: list[str] = field(default_factory=list)  # that they asked for
    injected: Counter[str] = field(default_factory=Counter)
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, method: str, path: str, bytes_asked: str | None) -> str | None:
        with self.lock:
            if not self.touches(method, path):
                return None
            self.requests += 1
            self.ranges += [bytes_asked] if bytes_asked else []
            fault = self.script[0] if self.script else self._by_chance()
            fits = fault is not None and (fault not in _BODY or (method == "GET" and (fault != "flip" or ".tar" in path)))
            if not fits:
                return None
            if self.script:
                self.script.popleft()
            self.injected[str(fault)] += 1
            return fault

    def _by_chance(self) -> str | None:
        draw = self.dice.random()
        for fault, chance in self.chances.items():
            if draw < chance:
                return fault
            draw -= chance
        return None

    def calm(self) -> None:
        """Ends all faults."""
        self.chances = {}
        self.script.clear()


@contextmanager
def fault_proxy(server: str, seed: int = 0) -> Iterator[FaultProxy]:
    """Runs a proxy for the length of the block; until faults are asked for it passes everything on as it is."""
    proxy = FaultProxy(server, dice=random.Random(seed))

    class Handler(_Handler):
        faults = proxy

    listener = _Listener(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: clients that hang up are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: FaultProxy
    upstream: http.client.HTTPConnection | None = None

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        fault = self.faults.choose(self.command, self.path, self.headers.get("Range"))
        if fault == "flip_sent" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "stall":
            select.select([self.connection], [], [], 60)  # until the client has had enough
            self.close_connection = True
        elif fault == "reset":
            self._reset()
        elif fault in _ANSWERS:
            self._answer(*_ANSWERS[fault])
        else:
            self._pass_on(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _answer(self, status: int, code: str, message: str, ahead: float) -> None:
        body = _ERROR.format(code=code, message=message).encode()
        self.send_response_only(status)
        self.send_header("Date", formatdate(time() + ahead, usegmt=True))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _pass_on(self, body: bytes | None, fault: str | None) -> None:
        if self.upstream is None:
            address = urlsplit(self.faults.server)
            self.upstream = http.client.HTTPConnection(str(address.hostname), address.port)
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # Host too: the signature covers it
            self.upstream.putheader(name, value)
        self.upstream.endheaders(body)
        response = self.upstream.getresponse()
        data = response.read()
        self.faults.passed(self.command, self.path, len(body or b""), len(data))
        shown = len(data) // 2 if fault in ("truncated", "short", "reset_body") else len(data)
        if fault == "flip" and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() in ("transfer-encoding", "connection"):
                continue
            self.send_header(name, str(shown) if name.lower() == "content-length" and fault == "short" else value)
        if response.getheader("Content-Length") is None and self.command != "HEAD":
            self.send_header("Content-Length", str(shown if fault == "short" else len(data)))
        if fault == "reset_body" and not data:
            self._reset()
            return
        self.end_headers()
        self.wfile.write(data[:shown])
        if fault == "reset_body":
            self._reset()
        elif fault == "truncated":
            self.close_connection = True

    def _reset(self) -> None:
        """Ends the connection by RST in place of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""
