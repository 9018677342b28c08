"""The integration packages whose ways differ from the default, each as one function of the model.

Classes are recognised by name, so that no package is imported that its user has not. What each row does on the wire is
captured from the real packages and written down in docs/adapters.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfreg_sdk.adapters.ways import OUTSIDE_PROTOCOL, Argument, Container, Field, Way, Ways

_PENALTIES = frozenset({"presence_penalty", "frequency_penalty"})


def ways_of(model: object) -> Ways:
    """How ``model`` takes parameters, by the nearest class of it that the table knows; else everything by default."""
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if (found := _TABLE.get((package, kind.__name__))) is not None:
            return found(model)
    return Ways(containers=_EXTRA_BODY, token_cap="either", tells_end=False)


def _inside(argument: str, *names: str) -> dict[str, Way]:
    return {name: Argument(name=argument, key=name) for name in names}


def _own_extra_body(model: Any) -> Mapping[str, Any]:
    return getattr(model, "extra_body", None) or {}


_EXTRA_BODY = {"extra_body": Container(own=_own_extra_body)}


def _openai(model: Any) -> Ways:
    """ChatOpenAI names the token cap anew; a server that wants the old name gets it beside the named fields."""
    if _by_responses(model):
        return _openai_responses(model)
    old = Argument(name="extra_body", key="max_tokens", unset="max_tokens")
    ways: dict[str, Way] = {"max_tokens": old, "max_completion_tokens": Field(name="max_tokens")}
    return Ways(to=ways, containers=_EXTRA_BODY, token_cap="new")


def _openai_responses(model: Any) -> Ways:
    """The Responses API knows no stop, seed, penalties and samples; temperature is dropped for thinking models."""
    effort: Way = Field(name="reasoning_effort")
    if model.reasoning is not None:
        effort = Field(name="reasoning", key="effort")
    switched = (model.reasoning or {}).get("effort") or model.reasoning_effort
    thinking = model.model_name.startswith("gpt-5") and "chat" not in model.model_name and switched != "none"
    return Ways(
        to={"reasoning_effort": effort},
        refused=frozenset({"n", "stop", "seed"}) | _PENALTIES | ({"temperature"} if thinking else set()),
        containers=_EXTRA_BODY,
    )


def _by_responses(model: Any) -> bool:
    """Whether calls without special tools go to the Responses API; the integration decides it by model and settings."""
    decide = getattr(model, "_use_responses_api", None)
    return decide is not None and bool(decide({"model": model.model_name, **model.model_kwargs}))


def _openai_like(model: Any) -> Ways:
    """Subclasses for other servers leave the token cap its old name."""
    new = Argument(name="max_completion_tokens", unset="max_tokens")
    return Ways(to={"max_completion_tokens": new}, containers=_EXTRA_BODY, token_cap="either")


def _anthropic(model: Any) -> Ways:
    return Ways(refused=_PENALTIES | {"min_p", "n", "seed", "repetition_penalty", "verbosity"})


def _ollama(model: Any) -> Ways:
    """Every argument raises but ``options``, which replaces all fields; a stop beside the field's is an error."""
    ways: dict[str, Way] = {
        "stop": Field(name="stop", value=list),
        "reasoning_effort": Field(name="reasoning", value=lambda effort: effort != "none" and effort),
        **_inside("options", "min_p", *_PENALTIES),
    }
    options = {"options": Container(own=_ollama_options, shared=True)}
    return Ways(to=ways, refused=frozenset({"n", "verbosity"}), containers=options)


def _ollama_options(model: Any) -> Mapping[str, Any]:
    from ollama import Options

    return {
        name: value
        for name in Options.model_fields
        if name in type(model).model_fields and (value := getattr(model, name)) is not None
    }


def _google(model: Any) -> Ways:
    """What has no field is a key of ``generation_config``. Clients older than Gemini 3 know no thinking level."""
    refused = {"min_p", "repetition_penalty", "verbosity"} | ({"reasoning_effort"} if _without_levels(model) else set())
    return Ways(
        to=_inside("generation_config", "seed", *_PENALTIES),
        refused=frozenset(refused),
        containers={"generation_config": Container()},
        usage_adds_up=True,
    )


def _without_levels(model: Any) -> bool:
    if not type(model.client).__module__.startswith("google.ai.generativelanguage"):
        return False
    from google.ai.generativelanguage_v1beta import ThinkingConfig

    return "thinking_level" not in ThinkingConfig.meta.fields


def _mistral(model: Any) -> Ways:
    """Every argument goes to the server as it is."""
    return Ways(to={"n": Argument(name="n")})


def _groq(model: Any) -> Ways:
    return Ways(
        to=_inside("extra_body", *OUTSIDE_PROTOCOL),
        refused=frozenset({"verbosity"}),
        containers={"extra_body": Container()},
    )


def _bedrock(model: Any) -> Ways:
    """The Converse API knows four parameters; others are the model's own, and only Claude's and Mistral's are like ours."""
    refused = _PENALTIES | {"min_p", "n", "seed", "repetition_penalty", "verbosity"}
    own = model.provider in ("anthropic", "mistral")
    thinks = bool((model.profile or {}).get("reasoning_effort_levels"))
    return Ways(
        to={"reasoning_effort": Argument(name="reasoning_effort"), **_inside(_BEDROCK_FIELDS, "top_k")},
        refused=refused | (set() if own else {"top_k"}) | (set() if thinks else {"reasoning_effort"}),
        containers={_BEDROCK_FIELDS: Container()},
    )


_BEDROCK_FIELDS = "additional_model_request_fields"

_TABLE: Mapping[tuple[str, str], Callable[[Any], Ways]] = {
    ("langchain_openai", "ChatOpenAI"): _openai,
    ("langchain_openai", "BaseChatOpenAI"): _openai_like,
    ("langchain_anthropic", "ChatAnthropic"): _anthropic,
    ("langchain_ollama", "ChatOllama"): _ollama,
    ("langchain_google_genai", "ChatGoogleGenerativeAI"): _google,
    ("langchain_mistralai", "ChatMistralAI"): _mistral,
    ("langchain_groq", "ChatGroq"): _groq,
    ("langchain_aws", "ChatBedrockConverse"): _bedrock,
}
