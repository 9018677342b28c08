"""LangChain's ``init_chat_model`` with a regulated model at its end: that function has no place to plug one in."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.langchain.regulate import Options, regulate


def init_chat_model(model: str, *, model_provider: str | None = None, **given: Any) -> BaseChatModel:
    """A regulated model of any provider, by name: ``init_chat_model("openai:gpt-4.1-mini", budget="2.00 USD")``.

    Args:
        model: "provider:model" as LangChain's function takes it; a model alone where its provider can be told from it.
        model_provider: the provider, where ``model`` does not say.
        given: options of `regulate`, decoding parameters among them, which are explicit and win; the rest goes to the provider's
            class.

    Raises:
        ConfigError: LangChain is not installed, or an option that cannot work.
        ImportError: the provider's package is not installed.
        ValueError: LangChain knows no such provider.
    """
    try:
        from langchain.chat_models import init_chat_model as make
    except ImportError as exc:
        raise ConfigError("init_chat_model needs the package langchain: pip install 'selfreg[agents]'") from exc
    options: Any = {name: given.pop(name) for name in Options.__annotations__ if name in given}
    made: BaseChatModel = make(model, model_provider=model_provider, **given)
    return regulate(made, **options)
