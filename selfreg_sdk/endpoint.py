"""The name of an endpoint in keys and records: where requests go, without anything secret."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from selfreg_sdk.errors import ConfigError


@lru_cache(maxsize=256)
def endpoint_id(endpoint: str) -> str:
    """One spelling for one endpoint, free of secrets.

    A URL becomes ``scheme://host[:port]/path``: user names, passwords and queries (which may hold keys) are dropped.
    Anything without ``://`` is a name, such as that of a wrapped LangChain model, and stays as it is.

    Raises:
        ConfigError: a URL, but not an http(s) one with a host.
    """
    if "://" not in endpoint:
        return endpoint
    parts = parse_base_url(endpoint)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    default = 443 if parts.scheme == "https" else 80
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def parse_base_url(base_url: str) -> SplitResult:
    """The parts of an http(s) URL; its host and port are known to be readable.

    Raises:
        ConfigError: anything else.
    """
    try:
        parts = urlsplit(base_url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        # What stands before an @ or after a ? may be secret.
        shown = base_url.rpartition("@")[2].partition("?")[0][:200]
        raise ConfigError(f"base_url {shown!r} is not an http(s) URL; write it like 'http://localhost:8000/v1'")
    return parts
