"""The integration packages, each with a model on a loopback server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
from langchain_core.language_models.chat_models import BaseChatModel

from tests.adapters import dialects
from tests.adapters.dialects import Dialect

Make = Callable[..., BaseChatModel]


@dataclass(frozen=True, kw_only=True)
class Package:
    """One integration.

    Attributes:
        name: of its class, with what distinguishes the set-up.
        distribution: that holds it.
        dialect: what its provider speaks.
        make: a model on a server's URL, with further arguments of its constructor.
        needs: further arguments that a parameter needs to be accepted, a model that thinks for example.
    """

    name: str
    distribution: str
    dialect: Dialect
    make: Make
    needs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _openai(url: str, **given: Any) -> BaseChatModel:
    from langchain_openai import ChatOpenAI

    # A Timeout object has no hash, so that the client is the model's own and not one of the whole process.
    usual = {"model": "some-model", "base_url": f"{url}/v1", "api_key": "sk-test", "timeout": openai.Timeout(30)}
    return ChatOpenAI(**(usual | given))


def _responses(url: str, **given: Any) -> BaseChatModel:
    return _openai(url, **({"use_responses_api": True} | given))


def _anthropic(url: str, **given: Any) -> BaseChatModel:
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(**({"model": "some-model", "base_url": url, "api_key": "sk-test"} | given))


def _ollama(url: str, **given: Any) -> BaseChatModel:
    from langchain_ollama import ChatOllama

    return ChatOllama(**({"model": "some-model", "base_url": url} | given))


def _google(url: str, **given: Any) -> BaseChatModel:
    from langchain_google_genai import ChatGoogleGenerativeAI

    usual = {"model": "some-model", "base_url": url, "transport": "rest", "api_key": "test"}
    return ChatGoogleGenerativeAI(**(usual | given))


def _mistral(url: str, **given: Any) -> BaseChatModel:
    from langchain_mistralai import ChatMistralAI

    return ChatMistralAI(**({"model": "some-model", "base_url": f"{url}/v1", "api_key": "test"} | given))


def _groq(url: str, **given: Any) -> BaseChatModel:
    from langchain_groq import ChatGroq

    return ChatGroq(**({"model": "some-model", "base_url": url, "api_key": "test"} | given))


def _deepseek(url: str, **given: Any) -> BaseChatModel:
    from langchain_deepseek import ChatDeepSeek

    return ChatDeepSeek(**({"model": "some-model", "base_url": url, "api_key": "test"} | given))


def _bedrock(url: str, **given: Any) -> BaseChatModel:
    from langchain_aws import ChatBedrockConverse

    usual = {
        "model": "anthropic.claude-sonnet-4-20250514-v1:0",
        "endpoint_url": url,
        "region_name": "us-east-1",
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
    }
    return ChatBedrockConverse(**(usual | given))


PACKAGES = (
    Package(name="ChatOpenAI", distribution="langchain-openai", dialect=dialects.OPENAI_CHAT, make=_openai),
    Package(
        name="ChatOpenAI (Responses)",
        distribution="langchain-openai",
        dialect=dialects.OPENAI_RESPONSES,
        make=_responses,
    ),
    Package(name="ChatAnthropic", distribution="langchain-anthropic", dialect=dialects.ANTHROPIC, make=_anthropic),
    Package(name="ChatOllama", distribution="langchain-ollama", dialect=dialects.OLLAMA, make=_ollama),
    Package(
        name="ChatGoogleGenerativeAI", distribution="langchain-google-genai", dialect=dialects.GEMINI, make=_google
    ),
    Package(name="ChatMistralAI", distribution="langchain-mistralai", dialect=dialects.MISTRAL, make=_mistral),
    Package(name="ChatGroq", distribution="langchain-groq", dialect=dialects.GROQ, make=_groq),
    Package(name="ChatDeepSeek", distribution="langchain-deepseek", dialect=dialects.DEEPSEEK, make=_deepseek),
    Package(
        name="ChatBedrockConverse",
        distribution="langchain-aws",
        dialect=dialects.BEDROCK,
        make=_bedrock,
        needs={"reasoning_effort": {"model": "anthropic.claude-opus-4-5-20251101-v1:0"}},
    ),
)
