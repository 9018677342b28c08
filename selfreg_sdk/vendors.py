"""Who answers: from a base URL or a LangChain class to the vendor whose rules and prices apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from selfreg_sdk.endpoint import parse_base_url


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """Whose rules apply.

    Attributes:
        rules: the vendor's name in `policies.model_rules`; None for a compatible server nobody knows.
        prices: the provider's name in the price list; None where only overrides count.
        api_version: ISO date of the API version in use, where behaviour depends on it.
    """

    rules: str | None = None
    prices: str | None = None
    api_version: str | None = None


_HOSTS: Mapping[str, Vendor] = {
    "api.openai.com": Vendor(rules="openai", prices="openai"),
    "api.anthropic.com": Vendor(rules="anthropic", prices="anthropic"),
    "generativelanguage.googleapis.com": Vendor(rules="google", prices="google"),
    "api.deepseek.com": Vendor(rules="deepseek", prices="deepseek"),
    "api.x.ai": Vendor(rules="xai", prices="x-ai"),
    "api.mistral.ai": Vendor(rules="mistral", prices="mistral"),
    "api.moonshot.ai": Vendor(rules="moonshot", prices="moonshotai"),
    "api.groq.com": Vendor(prices="groq"),
    "api.fireworks.ai": Vendor(rules="fireworks", prices="fireworks"),
}

_PACKAGES: Mapping[str, Vendor] = {
    "langchain_openai": Vendor(rules="openai", prices="openai"),
    "langchain_anthropic": Vendor(rules="anthropic", prices="anthropic"),
    "langchain_google_genai": Vendor(rules="google", prices="google"),
    "langchain_google_vertexai": Vendor(rules="vertex", prices="google"),
    "langchain_mistralai": Vendor(rules="mistral", prices="mistral"),
    "langchain_deepseek": Vendor(rules="deepseek", prices="deepseek"),
    "langchain_xai": Vendor(rules="xai", prices="x-ai"),
    "langchain_groq": Vendor(prices="groq"),
    "langchain_aws": Vendor(rules="bedrock", prices="aws"),
    "langchain_fireworks": Vendor(rules="fireworks", prices="fireworks"),
    "langchain_ollama": Vendor(rules="ollama"),
}


def vendor_of_url(base_url: str | None, *, server: str | None = None) -> Vendor:
    """The vendor behind an OpenAI-compatible URL.

    Args:
        base_url: None means OpenAI itself.
        server: what the user says is serving it, for hosts nobody knows.
    """
    if base_url is None:
        return _HOSTS["api.openai.com"]
    return _HOSTS.get(parse_base_url(base_url).hostname or "", Vendor(rules=server))


def vendor_of_class(kind: type, *, base_url: str | None = None) -> Vendor:
    """The vendor behind a LangChain chat model class.

    A class of OpenAI's protocol pointed at another URL says nothing about who answers there; any other class does.
    """
    found = next(
        (vendor for base in kind.__mro__ if (vendor := _PACKAGES.get(base.__module__.partition(".")[0]))), Vendor()
    )
    if base_url is not None and "://" in base_url and found.rules in (None, "openai"):
        return vendor_of_url(base_url)
    if found.rules == "anthropic":
        return Vendor(rules="anthropic", prices="anthropic", api_version=_anthropic())
    return found


def _anthropic() -> str:
    """The API version the installed Anthropic SDK asks for: from 2.0 on the one without sampling parameters."""
    try:
        major = int(metadata.version("anthropic").split(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        major = 0
    return "2026-10-21" if major >= 2 else "2023-06-01"
