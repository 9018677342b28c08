"""What every test gets: a provider of its own, no network but loopback, and nobody's real configuration."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from selfreg_sdk.wire.transport import choose
from tests.fake_provider import FakeProvider

_FOREIGN_SETTINGS = ("OPENAI_", "SELFREG_", "LANGCHAIN_", "LANGSMITH_", "AZURE_", "ANTHROPIC_")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")

# How long an example takes says more about the machine than about the code.
settings.register_profile("selfreg", deadline=None)
settings.load_profile("selfreg")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A loopback provider that counts what it bills."""
    with FakeProvider() as running:
        yield running


@pytest.fixture(params=["openai", "aiohttp"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once on each library that speaks HTTP: it is what every client gets that does not say otherwise."""
    name: str = request.param
    monkeypatch.setattr(
        "selfreg_sdk.client.choose", lambda wanted, url: choose(name if wanted == "auto" else wanted, url)
    )
    return name


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no configuration and no store of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN_SETTINGS) or name in _PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("SELFREG_STORE", str(tmp_path / "selfreg.db"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.fixture(autouse=True)
def stores_closed(isolated_environment: None) -> Iterator[None]:
    """Close the stores that a test opened by their names: a process keeps them, and files are not without end."""
    before = set(_open_stores())
    yield
    for name in _open_stores().keys() - before:
        _open_stores().pop(name).store.close()


def _open_stores() -> dict[str, Any]:
    runtime = sys.modules.get("selfreg_sdk.runtime")
    return {} if runtime is None else runtime._open


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Shells start background jobs with Ctrl-C ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection and name look-up that would leave this machine."""
    connect, connect_ex, resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(original: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
                raise RuntimeError(f"a test tried to reach {address!r}: tests use loopback only")
            return original(self, address)

        return call

    def guarded_resolve(host: Any, *rest: Any, **options: Any) -> Any:
        if host is not None and not _is_loopback(host):
            raise socket.gaierror(socket.EAI_NONAME, f"Name or service not known: {host!r} (tests use loopback only)")
        return resolve(host, *rest, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)


def _is_loopback(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
