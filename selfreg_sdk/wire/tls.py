"""Whose certificates are trusted: the same, whichever library speaks HTTP."""

from __future__ import annotations

import functools
import importlib
import os
import ssl
from importlib.metadata import version
from types import ModuleType

from selfreg_sdk.errors import ConfigError


@functools.cache
def http_library() -> ModuleType:
    """What the installed openai package speaks through: httpx in 2.x, httpx2 from 3.0."""
    return importlib.import_module("httpx2" if int(version("openai").partition(".")[0]) >= 3 else "httpx")


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The trust settings of openai's own transport, loaded once: reading the CA store takes tens of milliseconds.

    Raises:
        ConfigError: what the environment names cannot be read.
    """
    try:
        context: ssl.SSLContext = http_library().create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        named = {name: os.environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ}
        raise ConfigError(
            f"the trusted certificates cannot be read ({error}); the environment says {named!r}"
        ) from None
    return context
