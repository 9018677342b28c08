from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import FIELDS, Capabilities, Interval, resolve
from policies.capabilities import CHAT_COMPLETIONS, NOTHING, OPEN_WEIGHTS, from_profile
from policies.model_rules import RULES, find_rule, normalise
from policies.params import EFFORTS, SAMPLING_FIELDS, DecodingParams

NEW_CLAUDE_API = "2026-10-21"

# model id -> the rule that must win; at least one id a rule, and its near misses
WINNERS: dict[str, str | None] = {
    # OpenAI
    "gpt-3.5-turbo": "gpt-classic",
    "gpt-4": "gpt-classic",
    "gpt-4.1": "gpt-classic",
    "gpt-4.1-mini-2025-04-14": "gpt-classic",
    "gpt-4o-mini": "gpt-classic",
    "chatgpt-4o-latest": "gpt-classic",
    "ft:gpt-4o-mini-2024-07-18:org::abc": "gpt-classic",
    "gpt-oss-120b": None,
    "gpt-5": "gpt-5",
    "gpt-5-mini": "gpt-5",
    "gpt-5-nano-2025-08-07": "gpt-5",
    "gpt-5-codex": "gpt-5",
    "gpt-5-pro": "gpt-5-pro",
    "gpt-5-chat-latest": "gpt-5-chat",
    "gpt-5.1": "gpt-effort-none-default",
    "gpt-5.1-codex-mini": "gpt-effort-none-default",
    "gpt-5.4-nano": "gpt-effort-none-default",
    "gpt-5.10": "gpt-effort-none-sent",
    "gpt-5.14-mini": "gpt-effort-none-sent",
    "gpt-5.5": "gpt-effort-none-sent",
    "gpt-5.6-terra": "gpt-effort-none-sent",
    "gpt-6-sol": "gpt-effort-none-sent",
    "gpt-6.1-terra": "gpt-effort-none-sent",
    "gpt-5.1-chat-latest": "gpt-chat-latest",
    "gpt-5.3-chat-latest": "gpt-chat-latest",
    "gpt-5.2-pro": "gpt-pro-never-samples",
    "gpt-5.5-pro-2026-04-01": "gpt-pro-never-samples",
    "gpt-6-pro": "gpt-pro-never-samples",
    "gpt-6-astra": "gpt-6-never-samples",
    "gpt-6.1-sol": "gpt-6-never-samples",
    "o1": "o-series",
    "o3-mini": "o-series",
    "o4-mini-2025-04-16": "o-series",
    "openai/o3": "o-series",
    "olmo-3": None,
    "o3d-custom": None,
    # Anthropic
    "claude-opus-4-1-20250805": "claude-temperature-xor-top-p",
    "claude-opus-4-1@20250805": "claude-temperature-xor-top-p",
    "claude-opus-4-6": "claude-temperature-xor-top-p",
    "claude-sonnet-4-5-20250929": "claude-temperature-xor-top-p",
    "anthropic/claude-sonnet-4.5": "claude-temperature-xor-top-p",
    "us.anthropic.claude-sonnet-4-6-v1:0": "claude-temperature-xor-top-p",
    "claude-haiku-4-5": "claude-temperature-xor-top-p",
    "claude-opus-4-20250514": "claude-classic",
    "claude-opus-4@20250514": "claude-classic",
    "claude-opus-4-0": "claude-classic",
    "claude-sonnet-4-20250514": "claude-classic",
    "eu.anthropic.claude-sonnet-4-20250514-v1:0": "claude-classic",
    "claude-3-7-sonnet-latest": "claude-classic",
    "anthropic/claude-3.5-haiku": "claude-classic",
    "claude-2.1": "claude-classic",
    "claude-instant-1.2": "claude-classic",
    "claude-opus-4-7": "claude-no-sampling",
    "anthropic/claude-opus-4.7": "claude-no-sampling",
    "claude-opus-5": "claude-no-sampling",
    "claude-opus-5-5": "claude-no-sampling",
    "claude-sonnet-5-5": "claude-no-sampling",
    "claude-haiku-5-5": "claude-no-sampling",
    "claude-fable-5": "claude-no-sampling",
    "claude-mythos-5": "claude-no-sampling",
    "claude-opus-10": "claude-no-sampling",
    "claude-opus-4-10": "claude-no-sampling",
    # Google
    "gemini-1.5-pro": "gemini-classic",
    "gemini-2.5-flash": "gemini-classic",
    "models/gemini-2.5-pro": "gemini-classic",
    "gemini-3-pro": "gemini-3-warm-only",
    "gemini-3.1-pro-preview": "gemini-3-warm-only",
    "gemini-3.5-flash": "gemini-3-warm-only",
    "gemini-3.5-flash-lite": "gemini-ignores-sampling",
    "gemini-3.6-flash": "gemini-ignores-sampling",
    "publishers/google/models/gemini-3.8-flash": "gemini-ignores-sampling",
    "gemini-4": "gemini-ignores-sampling",
    "gemini-4-argon": "gemini-ignores-sampling",
    "gemini-flash-latest": "gemini-ignores-sampling",
    "gemma-3-27b-it": None,
    # Others
    "deepseek-reasoner": "deepseek-thinking-ignores",
    "deepseek-v4-flash": "deepseek-thinking-ignores",
    "deepseek-v4-non-thinking": "deepseek-chat",
    "deepseek-chat": "deepseek-chat",
    "deepseek-v3": "deepseek-chat",
    "grok-4.20": "grok-4.20-no-effort",
    "grok-4.20-reasoning": "grok-4.20-no-effort",
    "grok-4.3": "grok-reasoning",
    "x-ai/grok-4.5": "grok-reasoning",
    "grok-3-mini": "grok-reasoning",
    "grok-3": None,
    "kimi-k2": "kimi-k2",
    "moonshotai/Kimi-K2-Instruct": "kimi-k2",
    "kimi-k2.5": "kimi-fixed-temperature",
    "kimi-k3": "kimi-fixed-temperature",
    "mistral-large-latest": "mistral",
    "open-mixtral-8x7b": "mistral",
    "codestral-2508": "mistral",
    # Nobody's
    "llama-4-scout": None,
    "": None,
}


@pytest.mark.parametrize(("model", "rule"), WINNERS.items())
def test_the_right_rule_wins(model: str, rule: str | None) -> None:
    found = find_rule(model)
    assert (found.name if found else None) == rule


def test_every_rule_wins_for_at_least_one_model() -> None:
    """No rule is shadowed by an earlier one."""
    by_version = find_rule("claude-opus-4-1", api_version=NEW_CLAUDE_API)
    assert by_version is not None
    assert {*WINNERS.values(), by_version.name} - {None} == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("model", [model for model, rule in WINNERS.items() if rule and rule.startswith("claude")])
def test_the_new_anthropic_api_takes_no_sampling_from_any_claude(model: str) -> None:
    for version in (NEW_CLAUDE_API, "2027-01-01"):
        found = resolve(model, vendor="anthropic", api_version=version)
        assert found.accepted.isdisjoint(SAMPLING_FIELDS)
    old = find_rule(model, api_version="2023-06-01")
    assert old is not None
    assert old.name == WINNERS[model]


@pytest.mark.parametrize(
    ("model", "plain"),
    [
        ("  GPT-4.1 ", "gpt-4.1"),
        ("models/Gemini-2.5-Flash", "gemini-2.5-flash"),
        ("openrouter/anthropic/claude-opus-4.7", "claude-opus-4.7"),
        ("anthropic.claude-3-haiku-v1:0", "claude-3-haiku-v1:0"),
        ("us-gov.anthropic.claude-3-haiku", "claude-3-haiku"),
        ("jp.anthropic.claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("mistral.mistral-large-2407-v1:0", "mistral-large-2407-v1:0"),
        ("gpt-4.1", "gpt-4.1"),
    ],
)
def test_vendor_prefixes_fall_off(model: str, plain: str) -> None:
    assert normalise(model) == plain


XOR = (("temperature", "top_p"),)
ONE = Interval(low=0, high=1)
WARM = Interval(low=1, high=2)


@pytest.mark.parametrize(
    ("model", "vendor", "facts"),
    [
        (
            "gpt-4.1",
            "openai",
            {"accepted": CHAT_COMPLETIONS, "token_cap_field": "max_completion_tokens", "efforts": ()},
        ),
        ("gpt-5", "openai", {"efforts": ("minimal", "low", "medium", "high"), "default_effort": "medium"}),
        ("gpt-5-pro", "openai", {"efforts": ("high",), "reasons": True}),
        ("gpt-5-chat-latest", "openai", {"accepted": CHAT_COMPLETIONS, "reasons": False}),
        ("gpt-5.1", "openai", {"sampling_needs_effort_none": True, "default_effort": "none", "reasons": False}),
        ("gpt-5.5", "openai", {"sampling_needs_effort_none": True, "default_effort": "medium", "reasons": True}),
        ("gpt-5.1-chat-latest", "openai", {"accepted": NOTHING}),
        ("gpt-5.2-pro", "openai", {"efforts": ("medium", "high", "xhigh"), "sampling_needs_effort_none": False}),
        ("gpt-6-astra", "openai", {"efforts": ("low", "medium", "high", "xhigh", "max")}),
        ("o3", "openai", {"accepted": NOTHING | {"reasoning_effort"}, "efforts": ("low", "medium", "high")}),
        ("claude-opus-4-1", "anthropic", {"exclusive": XOR, "ranges": {"temperature": ONE}}),
        ("claude-opus-4-20250514", "anthropic", {"exclusive": (), "ranges": {"temperature": ONE}}),
        ("claude-opus-4-7", "anthropic", {"accepted": NOTHING | {"stop", "reasoning_effort"}}),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", "bedrock", {"exclusive": XOR}),
        ("gemini-2.5-flash", "google_genai", {"accepted": CHAT_COMPLETIONS | {"top_k"}, "ignored": frozenset()}),
        ("gemini-3-pro", "google_genai", {"ranges": {"temperature": WARM}}),
        ("gemini-3.5-flash-lite", "google_genai", {"ignored": frozenset(SAMPLING_FIELDS)}),
        ("deepseek-reasoner", "deepseek", {"default_effort": "high", "efforts": ("low", "high", "max")}),
        ("deepseek-chat", "deepseek", {"accepted": CHAT_COMPLETIONS - {"n", "seed"}}),
        ("grok-4.20", "xai", {"efforts": (), "exclusive": ()}),
        ("grok-4.5", "xai", {"efforts": ("low", "medium", "high")}),
        ("kimi-k2", "moonshot", {"n_needs_temperature": 0.3, "ranges": {"temperature": ONE}}),
        ("kimi-k3", "moonshot", {"accepted": NOTHING}),
        ("mistral-large-latest", "mistralai", {"accepted": NOTHING | {"temperature", "top_p", "stop", "n"}}),
        ("brand-new", "openai", {"accepted": NOTHING, "sources": ("unknown-model",)}),
        ("brand-new", "amazon_bedrock", {"accepted": NOTHING}),
        ("brand-new", None, {"accepted": CHAT_COMPLETIONS, "sources": ("protocol",)}),
        ("gpt-4.1", None, {"sources": ("protocol", "rule:gpt-classic")}),
        ("brand-new", "vllm", {"accepted": OPEN_WEIGHTS, "sources": ("server:vllm",)}),
        ("deepseek-r1", "ollama", {"accepted": OPEN_WEIGHTS, "ignored": frozenset()}),
        ("selfreg-tiny", "selfreg", {"accepted": OPEN_WEIGHTS}),
    ],
)
def test_facts_of_a_model(model: str, vendor: str | None, facts: dict[str, Any]) -> None:
    found = resolve(model, vendor=vendor)
    assert {name: getattr(found, name) for name in facts} == facts
    assert found.model == model


VENDORS = [None, "openai", "anthropic", "google_genai", "vllm", "groq"]
profiles = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([True, False, None]),
        "reasoning_effort_levels": st.none() | st.lists(st.sampled_from([*EFFORTS, "insane"])),
        "reasoning_effort_default": st.sampled_from([*EFFORTS, "insane", None]),
        "structured_output": st.booleans(),
        "max_output_tokens": st.sampled_from([None, 0, 1, 4096, "many"]),
        "image_inputs": st.booleans(),
    },
)
learned_facts = st.dictionaries(
    st.sampled_from([*FIELDS, "max_completion_tokens"]), st.sampled_from(["rejected", "ignored"]), max_size=4
)


@given(
    model=st.sampled_from(list(WINNERS)),
    vendor=st.sampled_from(VENDORS),
    profile=st.none() | profiles,
    learned=st.none() | learned_facts,
    api_version=st.sampled_from([None, "2023-06-01", NEW_CLAUDE_API]),
)
def test_facts_never_contradict_themselves(
    model: str,
    vendor: str | None,
    profile: dict[str, Any] | None,
    learned: dict[str, str] | None,
    api_version: str | None,
) -> None:
    found = resolve(model, vendor=vendor, profile=profile, learned=learned, api_version=api_version)
    assert found.accepted <= set(FIELDS)
    assert found.accepted.isdisjoint(found.ignored & set(learned or ()))
    assert not found.efforts or "reasoning_effort" in found.accepted
    assert list(found.efforts) == sorted(found.efforts, key=EFFORTS.index)
    assert found.max_output_tokens is None or found.max_output_tokens > 0
    for name, limits in found.ranges.items():
        DecodingParams(**{name: limits.low})
        DecodingParams(**{name: limits.high})
    assert found.accepted.isdisjoint(set(learned or ()) - {"max_tokens"})
    assert len(set(found.sources)) == len(found.sources) > 0


# --- profiles --------------------------------------------------------------------------------------------------------

BASE = Capabilities(model="m", accepted=OPEN_WEIGHTS, default_effort="low", structured_output=True, max_output_tokens=7)


def test_a_profile_without_opinions_changes_nothing_but_the_sources() -> None:
    assert dataclasses.replace(from_profile(BASE, {"image_inputs": True}), sources=()) == BASE


def test_a_profile_takes_all_sampling_away_and_nothing_else() -> None:
    assert from_profile(BASE, {"temperature": False}).accepted == OPEN_WEIGHTS - set(SAMPLING_FIELDS)


def test_a_profile_gives_temperature_and_top_p() -> None:
    given_back = from_profile(Capabilities(model="m"), {"temperature": True})
    assert given_back.accepted == NOTHING | {"temperature", "top_p"}


def test_a_profile_names_efforts_in_any_order() -> None:
    found = from_profile(
        Capabilities(model="m"),
        {"reasoning_effort_levels": ["high", "low", "insane"], "reasoning_effort_default": "high"},
    )
    assert (found.efforts, found.default_effort) == (("low", "high"), "high")
    assert found.support("reasoning_effort") == "accepted"


def test_a_profile_of_an_unknown_model_is_better_than_nothing() -> None:
    found = resolve("brand-new", vendor="openai", profile={"temperature": True, "max_output_tokens": 4096})
    assert found.accepted == NOTHING | {"temperature", "top_p"}
    assert found.max_output_tokens == 4096
    assert found.sources == ("unknown-model", "profile")


def test_the_rule_wins_over_the_profile_and_the_profile_fills_the_rest() -> None:
    found = resolve("gemini-3.6-flash", vendor="google", profile={"temperature": True, "max_output_tokens": 65536})
    assert found.support("temperature") == "ignored"
    assert found.max_output_tokens == 65536
    assert found.sources == ("unknown-model", "profile", "rule:gemini-ignores-sampling")


def test_a_profile_that_takes_sampling_away_is_newer_than_the_rule() -> None:
    found = resolve("gpt-4.1", vendor="openai", profile={"temperature": False})
    assert found.accepted == CHAT_COMPLETIONS - set(SAMPLING_FIELDS)
    assert found.sources[-1] == "profile:no-sampling"


def test_only_the_effort_gate_says_more_than_a_profile_without_sampling() -> None:
    found = resolve("gpt-5.5", vendor="openai", profile={"temperature": False})
    assert found.support("temperature") == "accepted"
    assert found.sampling_needs_effort_none


def test_levels_of_a_profile_that_the_rule_does_not_let_through_are_gone() -> None:
    profile = {"reasoning_effort_levels": ["none", "low", "high"]}
    found = resolve("gpt-5-chat-latest", vendor="openai", profile=profile)
    assert (found.efforts, found.support("reasoning_effort"), found.reasons) == ((), "rejected", False)


# --- the facts themselves --------------------------------------------------------------------------------------------


def test_support_has_three_answers() -> None:
    facts = Capabilities(model="m", accepted=frozenset({"n"}), ignored=frozenset({"seed"}))
    assert [facts.support(name) for name in ("n", "seed", "stop")] == ["accepted", "ignored", "rejected"]


def test_without_keeps_the_original_and_says_why() -> None:
    less = BASE.without("top_k", "min_p", source="because")
    assert less.accepted == OPEN_WEIGHTS - {"top_k", "min_p"}
    assert less.sources == ("because",)
    assert BASE.accepted == OPEN_WEIGHTS
