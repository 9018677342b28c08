"""How n samples become one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from policies import Aggregation
from selfreg_sdk.errors import ConfigError

Scorer = Callable[[str], float]
VoteKey = Callable[[str], str | None]


def plain(text: str) -> str:
    """The default ballot of a vote: the text without differences of case and white space."""
    return " ".join(text.casefold().split())


def ballot_of(text: str | None, vote_key: VoteKey = plain) -> str | None:
    """What a sample votes for. None abstains: a sample without text, and one in which ``vote_key`` finds nothing."""
    return None if text is None or not text.strip() else vote_key(text)


@dataclass
class Tally:
    """The votes counted so far.

    The most frequent ballot wins, of several such the one that was cast first; the answer is the first sample that cast it.
    Who abstains never wins against a ballot; if all abstain, the first sample is the answer.

    Attributes:
        counts: votes by ballot, in the order in which the ballots were first cast.
        abstained: samples without a ballot.
    """

    counts: dict[str, int] = field(default_factory=dict)
    abstained: int = 0

    def add(self, ballots: Iterable[str | None]) -> None:
        """Count further samples, in order of arrival."""
        for ballot in ballots:
            if ballot is None:
                self.abstained += 1
            else:
                self.counts[ballot] = self.counts.get(ballot, 0) + 1

    def decided(self, left: int) -> bool:
        """Whether the answer is the same whatever the ``left`` samples that are still to come vote for."""
        return left <= 0 or self.needed(left) == 0

    def needed(self, left: int) -> int:
        """The least number of further samples, at most ``left``, that can decide the vote; 0 if it is decided.

        They decide it if all of them vote for who leads; nobody else can get there with fewer.
        """
        if not self.counts:
            return (left + 1) // 2  # of the first ballot to come; the others can only tie, too late
        leader = max(self.counts, key=self.counts.__getitem__)  # of several, the one cast first
        led, lacking, before = self.counts[leader], left - self.counts[leader], True
        for ballot, count in self.counts.items():
            if ballot == leader:
                before = False
            else:  # who was cast before the leader wins a tie with it
                lacking = max(lacking, count + left - led + before)
        return min((max(lacking, 0) + 1) // 2, left)


def ranking(
    texts: Sequence[str | None],
    aggregation: Aggregation,
    *,
    scorer: Scorer | None = None,
    vote_key: VoteKey = plain,
) -> list[int]:
    """Indices of the samples, the chosen answer first; ties keep the order of arrival.

    Samples without text come last, but in a vote in which nobody casts a ballot: there the order of arrival is kept.

    Args:
        texts: one per sample.
        aggregation: first keeps the order; vote puts the most frequent ballot first, as `Tally` counts it; best, and any if
            there is a scorer, put the highest score first.
        scorer: text to score; called once per distinct text.
        vote_key: text to ballot, for example the final number of a worked solution; None abstains.

    Raises:
        ConfigError: "best" without a scorer.
    """
    if aggregation.kind == "best" and scorer is None:
        raise ConfigError("aggregation 'best' needs a scorer: pass scorer=<function from text to number>")
    if aggregation.kind == "vote":
        return voted([ballot_of(text, vote_key) for text in texts])
    values = [0.0] * len(texts)
    if scorer is not None and aggregation.kind in ("best", "any"):
        scores = {text: scorer(text) for text in dict.fromkeys(texts) if text is not None}
        values = [0.0 if text is None else scores[text] for text in texts]
    return sorted(range(len(texts)), key=lambda index: (texts[index] is None, -values[index], index))


def voted(ballots: Sequence[str | None]) -> list[int]:
    """Indices of the samples by the votes for their ballots; those that abstain come last. The first is the answer."""
    tally = Tally()
    tally.add(ballots)
    counts = [0 if ballot is None else tally.counts[ballot] for ballot in ballots]
    return sorted(range(len(ballots)), key=lambda index: (-counts[index], index))
