"""Whose rules and prices apply to an inner model, and where its requests go."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel

from selfreg_sdk.errors import UnknownPriceError
from selfreg_sdk.langchain.identity import inner_endpoint, inner_model_id
from selfreg_sdk.prices import Prices
from selfreg_sdk.vendors import vendor_of_class

KEY = {"api_key": "test"}
AWS = {"region_name": "eu-west-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model as its user makes it, and what is known of it."""

    package: str
    kind: str
    model: str
    endpoint: str
    rules: str | None
    price_of: str | None
    given: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case(
        package="langchain_openai", kind="ChatOpenAI", model="gpt-4.1-mini", given=KEY,
        endpoint="ChatOpenAI", rules="openai", price_of="openai/",
    ),
    Case(
        package="langchain_openai", kind="ChatOpenAI", model="mistral-large-latest",
        given={**KEY, "base_url": "https://api.mistral.ai/v1"},
        endpoint="https://api.mistral.ai/v1", rules="mistral", price_of="mistral/",
    ),
    Case(
        package="langchain_anthropic", kind="ChatAnthropic", model="claude-sonnet-4-6", given=KEY,
        endpoint="https://api.anthropic.com", rules="anthropic", price_of="anthropic/",
    ),
    Case(
        package="langchain_ollama", kind="ChatOllama", model="qwen3", given={"base_url": "http://me:secret@127.0.0.1:11434"},
        endpoint="http://127.0.0.1:11434", rules="ollama", price_of=None,
    ),
    Case(
        package="langchain_google_genai", kind="ChatGoogleGenerativeAI", model="gemini-2.5-flash", given=KEY,
        endpoint="https://generativelanguage.googleapis.com", rules="google", price_of="google/",
    ),
    Case(
        package="langchain_mistralai", kind="ChatMistralAI", model="mistral-large-latest", given=KEY,
        endpoint="https://api.mistral.ai/v1", rules="mistral", price_of="mistral/",
    ),
    Case(
        package="langchain_groq", kind="ChatGroq", model="llama-3.3-70b-versatile", given=KEY,
        endpoint="https://api.groq.com", rules=None, price_of="groq/",
    ),
    Case(
        package="langchain_deepseek", kind="ChatDeepSeek", model="deepseek-chat", given=KEY,
        endpoint="https://api.deepseek.com/v1", rules="deepseek", price_of="deepseek/",
    ),
    Case(
        package="langchain_aws", kind="ChatBedrockConverse", model="eu.anthropic.claude-sonnet-4-20250514-v1:0", given=AWS,
        endpoint="https://bedrock-runtime.eu-west-1.amazonaws.com", rules="bedrock", price_of="aws/",
    ),
)  # fmt: skip


def made(case: Case) -> BaseChatModel:
    module = import_module(case.package)
    return getattr(module, case.kind)(model=case.model, **case.given)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} at {case.endpoint}")
def test_a_model_is_known_by_its_provider(case: Case) -> None:
    model = made(case)
    endpoint = inner_endpoint(model)
    assert (inner_model_id(model), endpoint) == (case.model, case.endpoint)
    base_url = endpoint if "://" in endpoint else None
    vendor = vendor_of_class(type(model), base_url=base_url)
    assert vendor.rules == case.rules
    given: dict[str, Any] = {"base_url": base_url, "provider": None if base_url else vendor.prices}
    if case.price_of is None:
        with pytest.raises(UnknownPriceError):
            Prices().lookup(case.model, **given)
    else:
        assert f" {case.price_of}" in Prices().lookup(case.model, **given).source


@pytest.mark.parametrize(
    ("package", "base_url", "rules"),
    [
        ("langchain_openai", None, "openai"),
        ("langchain_openai", "https://api.mistral.ai/v1", "mistral"),
        ("langchain_openai", "http://localhost:8000/v1", None),
        ("langchain_ollama", "http://localhost:11434", "ollama"),
        ("langchain_deepseek", "https://gateway.example/v1", "deepseek"),
        ("somebody_else", None, None),
    ],
)
def test_whose_rules_apply_to_a_class(package: str, base_url: str | None, rules: str | None) -> None:
    kind = type("Chat", (), {"__module__": f"{package}.chat_models"})
    assert vendor_of_class(kind, base_url=base_url).rules == rules


def test_an_inference_profile_is_known_by_the_model_behind_it() -> None:
    aws = import_module("langchain_aws")
    arn = "arn:aws:bedrock:eu-west-1:1:application-inference-profile/x"
    model = aws.ChatBedrockConverse(model=arn, provider="anthropic", base_model="anthropic.claude-sonnet-4-6", **AWS)
    assert inner_model_id(model) == "anthropic.claude-sonnet-4-6"
