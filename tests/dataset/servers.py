"""An HTTP server on this machine that serves a folder, knows ranges, counts requests and can be made to fail."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Requests:
    """What was asked for, and what goes wrong.

    `fault` gets the number of a request among those for bytes (from 1) and returns an HTTP status to answer with, "cut" to
    break off in the middle, or None to serve.
    """

    url: str
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    fault: Callable[[int], int | str | None] = lambda number: None
    head_fault: int | None = None
    knows_ranges: bool = True
    says_size: bool = True

    def gets(self) -> list[str | None]:
        """Return the ranges of the requests for bytes."""
        return [wanted for method, _, wanted in self.seen if method == "GET"]


@contextmanager
def serving(folder: Path) -> Iterator[Requests]:
    """Serve a folder for the time of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.folder = folder  # type: ignore[attr-defined]
    server.requests = Requests(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.requests  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False, fault=self._requests().head_fault)

    def do_GET(self) -> None:
        requests = self._requests()
        self._answer(with_body=True, fault=requests.fault(1 + len(requests.gets())))

    def _requests(self) -> Requests:
        return self.server.requests  # type: ignore[attr-defined]

    def _answer(self, *, with_body: bool, fault: int | str | None) -> None:
        requests, wanted = self._requests(), self.headers.get("Range")
        requests.seen.append((self.command, self.path, wanted))
        file = self.server.folder / self.path.lstrip("/")  # type: ignore[attr-defined]
        if isinstance(fault, int) or not file.is_file():
            self._send(fault if isinstance(fault, int) else 404, b"", {}, with_body=with_body)
            return
        body, status, headers = file.read_bytes(), 200, {"ETag": f'"{file.stat().st_mtime_ns:x}"'}
        if (match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")) and requests.knows_ranges:
            start, stop = int(match[1]), int(match[2] or len(body) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(body)) - 1}/{len(body)}"
            body, status = body[start:stop], 206
        self._send(status, body, headers, with_body=with_body, cut=fault == "cut")

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool, cut: bool = False) -> None:
        says_size = self._requests().says_size
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if says_size:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if not with_body:
            return
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
