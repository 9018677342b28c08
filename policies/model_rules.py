"""The rule table: what no model profile holds.

Conditions ("temperature only while reasoning is off"), conflicts ("temperature or top_p, not both"), silent ignoring, and the
families that OpenAI-compatible clients meet without any profile. Facts as of November 2026, from the providers'
documentation and the live-checked profiles of pydantic-ai and litellm. Each rule has a name, and a wire test per rule.
The first rule that matches a model id applies; ids are matched in lower case without a vendor prefix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policies.capabilities import CHAT_COMPLETIONS, NOTHING, OPEN_WEIGHTS, Capabilities, from_profile
from policies.params import SAMPLING_FIELDS, Effort, Interval

_SAMPLING = frozenset(SAMPLING_FIELDS)
_PENALTIES = frozenset({"presence_penalty", "frequency_penalty"})


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a family of models accepts.

    Attributes:
        name: how the rule is named in `Capabilities.sources`.
        models: matches the normalised model id from its start.
        facts: fields of `Capabilities` it sets.
        api_from: applies only from this provider API version on (ISO date), e.g. Anthropic's version header.
    """

    name: str
    models: re.Pattern[str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    api_from: str | None = None


def _rule(name: str, models: str, *, api_from: str | None = None, **facts: Any) -> Rule:
    return Rule(name=name, models=re.compile(models), facts=facts, api_from=api_from)


def _efforts(*levels: Effort) -> tuple[Effort, ...]:
    return levels


_REASONING = NOTHING | {"reasoning_effort"}
_GPT5 = _REASONING | {"verbosity"}
_OPENAI: dict[str, Any] = {"token_cap_field": "max_completion_tokens", "structured_output": True}
_CLAUDE: dict[str, Any] = {"ranges": {"temperature": Interval(low=0, high=1)}}
_CLAUDE_SAMPLING = NOTHING | {"temperature", "top_p", "top_k", "stop"}
_CLAUDE_EFFORTS = _efforts("low", "medium", "high", "max")
_GEMINI = CHAT_COMPLETIONS | {"top_k"}

RULES: tuple[Rule, ...] = (
    # OpenAI
    _rule("gpt-chat-latest", r"gpt-5\.\d+[\w.-]*-chat-latest", accepted=NOTHING, **_OPENAI),
    _rule("gpt-5-pro", r"gpt-5-pro", accepted=_REASONING, efforts=_efforts("high"), default_effort="high", **_OPENAI),
    _rule(
        "gpt-pro-never-samples",
        r"gpt-(5\.\d+|6[\w.]*)[\w.-]*-pro",
        accepted=_GPT5,
        efforts=_efforts("medium", "high", "xhigh"),
        default_effort="medium",
        **_OPENAI,
    ),
    _rule(
        "gpt-6-never-samples",
        r"gpt-(6-astra|6\.1-sol)",
        accepted=_GPT5,
        efforts=_efforts("low", "medium", "high", "xhigh", "max"),
        default_effort="medium",
        **_OPENAI,
    ),
    _rule(
        "gpt-effort-none-default",
        r"gpt-5\.[1-4](?!\d)",
        accepted=_GPT5 | {"temperature", "top_p"},
        efforts=_efforts("none", "low", "medium", "high"),
        default_effort="none",
        sampling_needs_effort_none=True,
        **_OPENAI,
    ),
    _rule(
        "gpt-effort-none-sent",
        r"gpt-5\.([5-9]|\d\d)|gpt-6",
        accepted=_GPT5 | {"temperature", "top_p"},
        efforts=_efforts("none", "low", "medium", "high", "xhigh"),
        default_effort="medium",
        sampling_needs_effort_none=True,
        **_OPENAI,
    ),
    _rule("gpt-5-chat", r"gpt-5-chat", accepted=CHAT_COMPLETIONS, **_OPENAI),
    _rule(
        "gpt-5",
        r"gpt-5",
        accepted=_GPT5,
        efforts=_efforts("minimal", "low", "medium", "high"),
        default_effort="medium",
        **_OPENAI,
    ),
    _rule(
        "o-series",
        r"o[134](?![a-z])",
        accepted=_REASONING,
        efforts=_efforts("low", "medium", "high"),
        default_effort="medium",
        **_OPENAI,
    ),
    _rule("gpt-classic", r"(gpt-3\.5|gpt-4|chatgpt-4o)", accepted=CHAT_COMPLETIONS, **_OPENAI),
    # Anthropic
    _rule(
        "claude-api-2026-10",
        r"claude",
        api_from="2026-10-21",
        accepted=NOTHING | {"stop", "reasoning_effort"},
        efforts=_CLAUDE_EFFORTS,
        default_effort="high",
    ),
    _rule(
        "claude-temperature-xor-top-p",
        r"claude-(opus-4[.-][1-6](?!\d)|sonnet-4[.-][56](?!\d)|haiku-4[.-]5(?!\d))",
        accepted=_CLAUDE_SAMPLING,
        exclusive=(("temperature", "top_p"),),
        **_CLAUDE,
    ),
    _rule(
        "claude-classic",
        r"claude-([23]|v\d|instant|(opus|sonnet)-4(?![.-][1-9](?!\d)|[.-]1\d(?!\d)))",
        accepted=_CLAUDE_SAMPLING,
        **_CLAUDE,
    ),
    _rule(  # Opus 4.7, Sonnet 5, Haiku 5.5, Fable, Mythos, and whatever comes after this table
        "claude-no-sampling",
        r"claude",
        accepted=NOTHING | {"stop", "reasoning_effort"},
        efforts=_CLAUDE_EFFORTS,
        default_effort="high",
    ),
    # Google
    _rule(
        "gemini-ignores-sampling",
        r"gemini-(3\.5-flash-lite|3\.[6-9]|[4-9]|(pro|flash|flash-lite)-latest)",
        accepted=_REASONING,
        ignored=_SAMPLING,
        efforts=_efforts("low", "medium", "high"),
        default_effort="high",
    ),
    _rule(
        "gemini-3-warm-only",
        r"gemini-3",
        accepted=(_GEMINI | {"reasoning_effort"}) - {"n"},
        ranges={"temperature": Interval(low=1, high=2)},
        efforts=_efforts("low", "medium", "high"),
        default_effort="high",
    ),
    _rule("gemini-classic", r"gemini", accepted=_GEMINI, structured_output=True),
    # Others
    _rule(
        "deepseek-thinking-ignores",
        r"deepseek-(reasoner|r1|v4(?!.*non-?thinking))",
        accepted=_REASONING,
        ignored=_SAMPLING | _PENALTIES,
        efforts=_efforts("low", "high", "max"),
        default_effort="high",
    ),
    _rule("deepseek-chat", r"deepseek", accepted=CHAT_COMPLETIONS - {"n", "seed"}),
    _rule("grok-4.20-no-effort", r"grok-4\.20", accepted=NOTHING | {"temperature", "top_p", "n", "seed"}),
    _rule(
        "grok-reasoning",
        r"grok-(3-mini|4)",
        accepted=_REASONING | {"temperature", "top_p", "n", "seed"},
        efforts=_efforts("low", "medium", "high"),
        default_effort="high",
    ),
    _rule("kimi-fixed-temperature", r"kimi-k(2\.[5-9]|[3-9])", accepted=NOTHING),
    _rule(
        "kimi-k2",
        r"kimi-k2",
        accepted=CHAT_COMPLETIONS,
        ranges={"temperature": Interval(low=0, high=1)},
        n_needs_temperature=0.3,
    ),
    _rule(
        "mistral",
        r"(mistral|ministral|codestral|magistral|open-mi[sx]tral)",
        accepted=NOTHING | {"temperature", "top_p", "stop", "n"},
    ),
)
"""Most specific first."""

_PREFIXES = re.compile(
    r"^(ft:|((us|eu|jp|au|apac|us-gov|global)\.)?(anthropic|mistral|deepseek|openai|moonshotai|moonshot)\.)"
)
_KNOWN_VENDORS = re.compile(r"(openai|anthropic|google|deepseek|xai|mistral|moonshot|azure|amazon|bedrock|vertex)")
_OPEN_WEIGHT_SERVERS = frozenset({"vllm", "ollama", "library", "llamacpp", "sglang", "fireworks", "selfreg"})


def normalise(model: str) -> str:
    """Lower-case model id without vendor prefixes: "models/Gemini-2.5" and "us.anthropic.claude-x" lose theirs."""
    return _PREFIXES.sub("", model.strip().lower().rsplit("/", 1)[-1])


def find_rule(model: str, *, api_version: str | None = None) -> Rule | None:
    """The rule that applies to a model, or None."""
    name = normalise(model)
    for rule in RULES:
        if rule.models.match(name) and (rule.api_from is None or (api_version or "") >= rule.api_from):
            return rule
    return None


def resolve(
    model: str,
    *,
    vendor: str | None = None,
    profile: Mapping[str, Any] | None = None,
    api_version: str | None = None,
    learned: Mapping[str, str] | None = None,
) -> Capabilities:
    """What ``model`` accepts.

    Args:
        model: the model id as sent on the wire.
        vendor: who answers: a known provider ("openai"), a server of open-weight models ("vllm", "ollama", "selfreg"), or None
            for an OpenAI-compatible URL nobody knows.
        profile: the LangChain profile of the model, if there is one.
        api_version: the provider's API version, where behaviour depends on it (Anthropic's header).
        learned: field to "rejected" or "ignored", as observed on this endpoint.
    """
    rule = None if vendor in _OPEN_WEIGHT_SERVERS else find_rule(model, api_version=api_version)
    if vendor in _OPEN_WEIGHT_SERVERS:
        known = Capabilities(model=model, accepted=OPEN_WEIGHTS, sources=(f"server:{vendor}",))
    elif vendor is not None and _KNOWN_VENDORS.match(vendor):
        known = Capabilities(model=model, accepted=NOTHING, sources=("unknown-model",))
    else:
        known = Capabilities(model=model, accepted=CHAT_COMPLETIONS, sources=("protocol",))
    if profile:
        known = from_profile(known, profile)
    if rule is not None:
        known = replace(known, **rule.facts, sources=(*known.sources, f"rule:{rule.name}"))
        if "reasoning_effort" not in known.accepted:
            known = replace(known, efforts=())  # levels of the profile that the rule does not let through
        if profile and profile.get("temperature") is False and not known.sampling_needs_effort_none:
            # The profile is newer than the rule when it takes sampling away; only the effort gate says more than it.
            known = known.without(*SAMPLING_FIELDS, source="profile:no-sampling")
    return _apply_learned(known, learned) if learned else known


def _apply_learned(known: Capabilities, learned: Mapping[str, str]) -> Capabilities:
    """What the endpoint itself said. A refused name of the token cap first means "use the other name"."""
    names = set(learned)
    caps = names & {"max_tokens", "max_completion_tokens"}
    if caps == {"max_tokens"}:
        known = replace(known, token_cap_field="max_completion_tokens")
    elif caps == {"max_completion_tokens"}:
        known = replace(known, token_cap_field="max_tokens")
    lost = (names - caps) | ({"max_tokens"} if len(caps) == 2 else set())
    return replace(
        known.without(*lost, source="learned"),
        ignored=known.ignored | {name for name in lost if learned[name] == "ignored"},
    )
