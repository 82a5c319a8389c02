"""A receiver that stalls, babbles, lies or breaks off keeps nobody, and is told of in words."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from socket import create_server, socket
from threading import Event, Thread

import pytest

from contracts.webhooks import EventType, WebhookRecord
from service.webhooks import sender
from service.webhooks.sender import Answer, Message, Sender

Talk = Callable[[socket, Event], None]
MESSAGE = Message("event-0123456789abcdef0123", EventType.PING, b"{}")


@contextmanager
def talking(talk: Talk) -> Iterator[int]:
    """A server on a port that reads the request and then does as `talk` does; the port."""
    over = Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            asked = b""
            while not asked.endswith(b"\r\n\r\n{}"):
                asked += connection.recv(65536)
            with suppress(BrokenPipeError, ConnectionResetError):
                talk(connection, over)

    with create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()


def send(port: int, origin: str = "http://127.0.0.1") -> Answer:
    webhook = WebhookRecord(
        id="webhook-0123456789abcdef",
        url=f"{origin}:{port}/",
        events=[EventType.EDIT_COMMITTED],
        secret="whsec_" + "A" * 44,
        created_at=0.0,
        created_by="local",
        after=-1,
    )

    async def once() -> Answer:
        by = Sender([ip_network("127.0.0.0/8")])
        try:
            return await by.send(webhook, MESSAGE)
        finally:
            await by.close()

    return asyncio.run(once())


def silent(_: socket, over: Event) -> None:
    over.wait()


def dripping(connection: socket, over: Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(0.05):
        connection.sendall(b"x: y\r\n")


def babbling(connection: socket, over: Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not over.is_set():
        connection.sendall(b"x" * 65536)


def stalling(connection: socket, over: Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
    over.wait()


def breaking_off(connection: socket, over: Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")


def hanging_up(connection: socket, over: Event) -> None:
    pass


def rambling(connection: socket, over: Event) -> None:
    connection.sendall(b"what do you want?\r\n\r\n")


@pytest.mark.parametrize("talk", [silent, dripping])
def test_one_without_an_answer_is_left(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "SECONDS", 1.0)
    begun = time.monotonic()
    with talking(talk) as port:
        sent = send(port).sent
    assert time.monotonic() - begun < 5
    assert (sent.delivered, sent.status) == (False, None)
    assert sent.reason == "no answer within 1 seconds"


@pytest.mark.parametrize("talk", [babbling, stalling, breaking_off])
def test_who_has_said_yes_has_taken_it(talk: Talk) -> None:
    begun = time.monotonic()
    with talking(talk) as port:
        sent = send(port).sent
    assert time.monotonic() - begun < 5
    assert (sent.delivered, sent.status, sent.reason) == (True, 200, None)


@pytest.mark.parametrize("talk", [hanging_up, rambling])
def test_who_speaks_no_http_has_not(talk: Talk) -> None:
    with talking(talk) as port:
        sent = send(port).sent
    assert (sent.delivered, sent.status) == (False, None)
    assert sent.reason


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("120", 120.0), ("Fri, 31 Dec 1999 23:59:59 GMT", -1.0), ("soon", None), ("-5", None)],
)
def test_retry_after(said: str, seconds: float | None) -> None:
    def talk(connection: socket, over: Event) -> None:
        head = f"HTTP/1.1 503 Busy\r\nRetry-After: {said}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())

    with talking(talk) as port:
        answer = send(port)
    assert answer.sent.reason == "answered 503"
    assert answer.retry_after == seconds or (seconds == -1.0 and (answer.retry_after or 0) < 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with it")
def test_https_asks_for_the_name_and_believes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to an address; certificate, SNI and Host are of the name."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    hosts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hosts.append(self.headers["host"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        unknown = send(server.server_port, "https://localhost").sent
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        trusted = send(server.server_port, "https://localhost").sent
        other = send(server.server_port, "https://127.0.0.1").sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert trusted.delivered, trusted
    for refused in (unknown, other):
        assert not refused.delivered
        assert "CERTIFICATE_VERIFY_FAILED" in (refused.reason or "")
    assert names[:2] == ["localhost", "localhost"]
    assert hosts == [f"localhost:{server.server_port}"]
