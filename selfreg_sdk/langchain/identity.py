"""Who a LangChain model is: the id it asks for, and where it asks."""

from __future__ import annotations

from langchain_core.language_models.chat_models import BaseChatModel

from selfreg_sdk.endpoint import endpoint_id
from selfreg_sdk.errors import ConfigError

_MODELS = ("base_model_id", "model_name", "model", "model_id", "deployment_name")
_URLS = ("api_base", "openai_api_base", "anthropic_api_url", "groq_api_base", "endpoint_url", "base_url", "endpoint")
_DEFAULTS = {
    "langchain_anthropic": "https://api.anthropic.com",
    "langchain_google_genai": "https://generativelanguage.googleapis.com",
    "langchain_groq": "https://api.groq.com",
    "langchain_mistralai": "https://api.mistral.ai/v1",
}


def inner_model_id(model: BaseChatModel) -> str:
    """The id of an inner model, under whichever field its integration keeps it."""
    found = next((name for field in _MODELS if isinstance(name := getattr(model, field, None), str) and name), None)
    return type(model).__name__ if found is None else found.removeprefix("models/")


def inner_endpoint(model: BaseChatModel) -> str:
    """Where an inner model's requests go, without secrets: learned capabilities and prices belong to it.

    The name of its class where it does not say; that of OpenAI's classes stands for OpenAI itself.
    """
    options = getattr(model, "client_options", None) or {}
    host = options.get("api_endpoint") if isinstance(options, dict) else None  # Google's, often without a scheme
    urls = [host if host is None or "://" in host else f"https://{host}"]
    urls += [getattr(model, name, None) for name in _URLS]
    urls.append(getattr(getattr(getattr(model, "client", None), "meta", None), "endpoint_url", None))  # AWS, by region
    urls.append(_default(model))
    for url in urls:
        if isinstance(url, str) and "://" in url:
            try:
                return endpoint_id(url)
            except ConfigError:
                continue
    return type(model).__name__


def _default(model: BaseChatModel) -> str | None:
    packages = (kind.__module__.partition(".")[0] for kind in type(model).__mro__)
    return next((url for package in packages if (url := _DEFAULTS.get(package)) is not None), None)
