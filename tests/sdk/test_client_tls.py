"""Which certificates are trusted is the same on every transport: those of the system, or those SSL_CERT_FILE names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfreg_sdk.client import Client
from selfreg_sdk.errors import ConfigError, ConnectFailed
from selfreg_sdk.wire.tls import tls_context
from tests.fake_wire import read_request

pytestmark = pytest.mark.usefixtures("transport")

ASK: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "hello"}]}

# Made for this test alone, for localhost and 127.0.0.1, valid until 2120; nothing else trusts it.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBljCCATygAwIBAgIBATAKBggqhkjOPQQDAjATMREwDwYDVQQDDAhsb29wYmFj
azAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowEzERMA8GA1UEAwwI
bG9vcGJhY2swWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAT+1tsv55xnwWAAljZL
cd9+f3OMWC5GTux/yPohPKqL38cDG5O7LNgCb4HbuEPuf8SP9mif2MxM+sC7KDm+
+7OLo38wfTAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwDwYDVR0TAQH/BAUw
AwEB/zAdBgNVHQ4EFgQUgQtARL3BBj/zB0t46SHFlMZWilkwHwYDVR0jBBgwFoAU
gQtARL3BBj/zB0t46SHFlMZWilkwDgYDVR0PAQH/BAQDAgKEMAoGCCqGSM49BAMC
A0gAMEUCIQCeADAnKYmzhsOYdbQMkq4cdfJrLn8dPv2fYgrJC26Q7gIgV7gXjlQl
lr7D0eCWZrOM2ujK8QKFOboCbI4ZDaWnbw0=
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgNY/r8zjTonWX3sC4
ZCiiJ9KBvdRp7CP3AuxPS6llUEahRANCAAT+1tsv55xnwWAAljZLcd9+f3OMWC5G
Tux/yPohPKqL38cDG5O7LNgCb4HbuEPuf8SP9mif2MxM+sC7KDm++7OL
-----END PRIVATE KEY-----
"""
BODY = json.dumps({"choices": [{"index": 0, "message": {"content": "sealed"}, "finish_reason": "stop"}]}).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file = tmp_path / "loopback.pem"
    file.write_text(CERTIFICATE + KEY)
    return file


@pytest.fixture
def server(certificate: Path) -> Iterator[int]:
    """A TLS server that answers on every connection until the client leaves; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as sealed:
            reader = sealed.makefile("rb")
            while (request := read_request(reader)) is not None:
                sealed.sendall(HEAD + BODY)
                if request.payload.get("user") == "the last":
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)


@pytest.fixture(autouse=True)
def trust_is_read_anew() -> Iterator[None]:
    tls_context.cache_clear()
    yield
    tls_context.cache_clear()


def test_an_unknown_certificate_is_refused_before_anything_is_sent(server: int) -> None:
    with Client(base_url=f"https://localhost:{server}/v1") as client, pytest.raises(ConnectFailed) as info:
        client.complete(ASK)
    assert info.value.billed == "no"
    assert "SSL_CERT_FILE" in str(info.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_the_environment_trusts_is_accepted(
    server: int, certificate: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Client(base_url=f"https://{host}:{server}/v1") as client:
        for _ in range(3):
            assert client.complete(ASK).texts == ("sealed",)


def test_a_trusted_certificate_for_another_name_is_refused(
    server: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Client(base_url=f"https://127.0.0.2:{server}/v1") as client, pytest.raises(ConnectFailed):
        client.complete(ASK)


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "trusted.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with Client(base_url="https://localhost:1/v1") as client, pytest.raises(ConfigError, match=r"trusted\.pem"):
        client.complete(ASK)


def test_a_connection_that_was_closed_unseen_is_replaced(
    server: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def two_calls() -> None:
        async with Client(base_url=f"https://localhost:{server}/v1") as client:
            await client.acomplete({**ASK, "user": "the last"})
            time.sleep(0.2)  # the loop is busy while the server closes
            assert (await client.acomplete(ASK)).texts == ("sealed",)

    asyncio.run(two_calls())


def test_loops_end_without_a_word_about_open_tls_connections(
    server: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    client = Client(base_url=f"https://localhost:{server}/v1")
    for _ in range(2):
        assert asyncio.run(client.acomplete(ASK)).texts == ("sealed",)
    client.close()
