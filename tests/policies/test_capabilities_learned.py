"""What was learned of a model wins over every rule and profile."""

from __future__ import annotations

import pytest

from policies import resolve
from policies.capabilities import CHAT_COMPLETIONS


def test_what_was_learned_wins() -> None:
    found = resolve("gpt-4.1", vendor="openai", learned={"seed": "rejected", "top_p": "ignored"})
    assert found.accepted == CHAT_COMPLETIONS - {"seed", "top_p"}
    assert (found.support("seed"), found.support("top_p")) == ("rejected", "ignored")
    assert found.sources[-1] == "learned"


def test_a_refused_effort_takes_the_levels_along() -> None:
    found = resolve("gpt-5", vendor="openai", learned={"reasoning_effort": "rejected"})
    assert (found.efforts, found.support("reasoning_effort")) == ((), "rejected")


@pytest.mark.parametrize(
    ("learned", "name", "support"),
    [
        ({"max_tokens": "rejected"}, "max_completion_tokens", "accepted"),
        ({"max_completion_tokens": "rejected"}, "max_tokens", "accepted"),
        ({"max_tokens": "rejected", "max_completion_tokens": "rejected"}, "max_completion_tokens", "rejected"),
    ],
)
@pytest.mark.parametrize("model", ["gpt-4.1", "brand-new"])
def test_a_refused_name_of_the_token_cap_means_the_other_name(
    model: str, learned: dict[str, str], name: str, support: str
) -> None:
    found = resolve(model, learned=learned)
    assert found.support("max_tokens") == support
    if support == "accepted":
        assert found.token_cap_field == name


def test_nothing_learned_is_no_source() -> None:
    assert resolve("m", learned={}) == resolve("m") == resolve("m", learned=None)
