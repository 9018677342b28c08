"""How n samples become one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from policies import Aggregation
from selfreg_sdk.errors import ConfigError

Scorer = Callable[[str], float]
VoteKey = Callable[[str], str]


def plain(text: str) -> str:
    """The default ballot of a vote: the text without differences of case and white space."""
    return " ".join(text.casefold().split())


def ranking(
    texts: Sequence[str | None],
    aggregation: Aggregation,
    *,
    scorer: Scorer | None = None,
    vote_key: VoteKey = plain,
) -> list[int]:
    """Indices of the samples, the chosen answer first; ties keep the order of arrival, samples without text come last.

    Args:
        texts: one per sample.
        aggregation: first keeps the order; vote puts the most frequent ballot first; best, and any if there is a scorer,
            put the highest score first.
        scorer: text to score; called once per distinct text.
        vote_key: text to ballot, for example the final number of a worked solution.

    Raises:
        ConfigError: "best" without a scorer.
    """
    if aggregation.kind == "best" and scorer is None:
        raise ConfigError("aggregation 'best' needs a scorer: pass scorer=<function from text to number>")
    value: Callable[[str], float]
    if aggregation.kind == "vote":
        ballots = Counter(vote_key(text) for text in texts if text is not None)

        def value(text: str) -> float:
            return ballots[vote_key(text)]

    elif scorer is not None and aggregation.kind in ("best", "any"):
        scores = {text: scorer(text) for text in dict.fromkeys(texts) if text is not None}
        value = scores.__getitem__
    else:

        def value(text: str) -> float:
            return 0.0

    return sorted(
        range(len(texts)),
        key=lambda index: (texts[index] is None, -value(text) if (text := texts[index]) is not None else 0.0, index),
    )
