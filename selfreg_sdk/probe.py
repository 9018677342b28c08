"""Ask an OpenAI-compatible server which models it has: the cheapest question that proves it is one."""

from __future__ import annotations

import httpx
from pydantic import SecretStr

from selfreg_sdk.client import checked_url
from selfreg_sdk.errors import ConnectFailed, MalformedReply, ProviderTimeout
from selfreg_sdk.wire.http_errors import status_error


def probe(base_url: str, *, api_key: SecretStr | str | None = None, timeout: float = 5.0) -> list[str]:
    """Ids of the models the server lists under GET /models, in its order. Costs no tokens.

    Args:
        base_url: as for :class:`~selfreg_sdk.client.Client`.
        api_key: where the server asks for one.
        timeout: seconds for each of connecting and reading.

    Raises:
        ConfigError: base_url is not an http(s) URL.
        ProviderError: nothing answers there, or not with a list of models.
    """
    url = checked_url(base_url)
    key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{url}/models", headers=headers, timeout=timeout, follow_redirects=True)
    except httpx.TimeoutException:
        raise ProviderTimeout(f"{url!r} did not answer within {timeout:g} s", billed="no") from None
    except httpx.RequestError as error:
        raise ConnectFailed(
            f"cannot reach {url!r}: {error}. Check that the server is running and base_url is right."
        ) from None
    if reply.status_code != 200:
        raise status_error(reply.status_code, reply.headers, reply.text, payload={}, url=url)
    try:
        return [str(model["id"]) for model in reply.json()["data"]]
    except (ValueError, KeyError, TypeError):
        raise MalformedReply(
            f"{url!r} answers, but not with a list of models: is it an OpenAI-compatible endpoint (…/v1)?",
            billed="no",
            body=reply.text,
        ) from None
