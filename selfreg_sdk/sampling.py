"""How several samples of one request are drawn: in waves, until the answer is certain.

A vote is over when nobody can overtake who leads, whatever the samples still to come would say. So the answer is the same as that
of all n samples, and only what they would have cost is saved. What one wave costs more than no waves is the prompt, which every
request pays anew; where the model takes no ``n``, every sample pays it anyway, and waves cost nothing but time.

A call that is on its way is never cancelled to save money: it is charged all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from selfreg_sdk.aggregate import Tally, VoteKey, ballot_of, plain
from selfreg_sdk.booking import CallSpec, Receipt
from selfreg_sdk.channel import Answer
from selfreg_sdk.decision import Decision
from selfreg_sdk.errors import BudgetExceeded, ContextLengthExceeded, ParameterRejected, ProviderError
from selfreg_sdk.prices import Price

if TYPE_CHECKING:
    from selfreg_sdk.answering import Outcome

A = TypeVar("A", bound=Answer)

Drawn = tuple[A, Receipt] | BudgetExceeded | ProviderError
Spec = Callable[[Decision, int, int], CallSpec]

_USUAL_RATIO = Decimal(4)
"""What a token of output costs in tokens of input where no price is known: it is so for most models."""


@dataclass(frozen=True, kw_only=True)
class Habit:
    """What was seen of a task so far.

    Attributes:
        prompt_tokens, output_tokens: of the latest request, and of one of its samples.
        votes: requests seen.
        decided: of these, how many the least number of samples that can decide a vote did decide.
    """

    prompt_tokens: float
    output_tokens: float
    votes: int = 0
    decided: int = 0

    @property
    def chance(self) -> float:
        """Of a vote to be decided by the least number of samples that can; even, as long as nothing was seen."""
        return (self.decided + 1) / (self.votes + 2)


def worth_a_wave(habit: Habit, saved: int, price: Price | None) -> bool:
    """Whether to ask for the least number of samples that can decide a vote first, and for the others only if it is not.

    If it is, the output of ``saved`` samples is not paid for; if not, the prompt is paid for once more. That is weighed by how
    often votes of this task were decided so far.
    """
    into, out, again = Decimal(1), _USUAL_RATIO, Decimal(0)
    if price is not None:
        into, out, again = price.input_per_token, price.output_per_token, price.per_request
    won = Decimal(habit.chance) * saved * Decimal(habit.output_tokens) * out
    return won > Decimal(1 - habit.chance) * (Decimal(habit.prompt_tokens) * into + again)


def most_waves(decision: Decision) -> int:
    """How many requests the samples of a decision can take at most: the prompt of each is paid for."""
    if decision.one_by_one or decision.samples == 1:
        return decision.samples
    if decision.aggregation.kind != "vote":
        return 1
    return len(_planned(decision)) or 2


class Sampling(Generic[A]):
    """The samples of one request, wave by wave.

    Whoever drives it carries out the calls of `next` and hands what came of them to `take`, until there are no more.

    Args:
        outcome: is filled in.
        spec: from decision, index of the first sample and number of samples to the call for them.
        vote_key: from text to ballot; None is the text.
        habit: what was seen of the task; None asks for everything at once where the model takes ``n``.
        price: of the model, if it is known.
    """

    def __init__(
        self, outcome: Outcome[A], *, spec: Spec, vote_key: VoteKey | None, habit: Habit | None, price: Price | None
    ) -> None:
        self._outcome = outcome
        self._spec = spec
        self._vote_key = vote_key or plain
        self._habit = habit
        self._price = price
        self._asked = self._next = 0
        self._narrow = self._ended = False
        if outcome.decision.aggregation.kind == "vote":
            outcome.tally = Tally()

    @property
    def _left(self) -> int:
        return self._outcome.decision.samples - self._asked

    def next(self) -> list[CallSpec]:
        """The calls to make now, at the same time; none when the answer is certain or no more samples can be had."""
        outcome, left = self._outcome, self._left
        if self._ended or left <= 0:
            return []
        if outcome.tally is not None and outcome.tally.decided(left):
            outcome.decided_early = True
            return []
        size = self._size(left)
        if not outcome.decision.one_by_one:
            return [self._spec(outcome.decision, self._next, size)]
        places = range(self._next, self._next + (1 if self._narrow else size))
        return [self._spec(outcome.decision, place, 1) for place in places]

    def take(
        self, calls: Sequence[CallSpec], results: Sequence[Drawn[A]]
    ) -> ParameterRejected | ContextLengthExceeded | None:
        """Note what came of the calls of `next`; what a provider refused for its form is returned, to be conceded.

        Raises:
            BudgetExceeded, ProviderError: there is not one sample, and none will come.
        """
        refusal, failed, drawn = None, list[BudgetExceeded | ProviderError](), 0
        for call, result in zip(calls, results, strict=True):
            if isinstance(result, ParameterRejected | ContextLengthExceeded):
                refusal = refusal or result
            elif isinstance(result, BudgetExceeded | ProviderError):
                failed.append(result)
            else:
                drawn += call.n
                self._next = call.sample_index + call.n
                self._note(*result)
        self._asked += drawn
        if drawn:
            self._outcome.waves.append(drawn)
        if failed:
            broke = all(isinstance(error, BudgetExceeded) for error in failed)
            if broke and drawn and not self._narrow:
                self._narrow = True  # what the others did cost in the end may leave room for one after another
            else:
                self.fail(failed[0])
        return refusal

    def fail(self, error: BudgetExceeded | ProviderError) -> None:
        """No more samples can be had. Those that are paid for are handed out, and the record says that some are missing.

        Raises:
            BudgetExceeded, ProviderError: the error, if there is none.
        """
        if not self._outcome.answers:
            raise error
        self._ended = True
        self._outcome.flag(f"samples_missing: {type(error).__name__}")

    def learned(self) -> Habit | None:
        """What was seen of the task, this request included; None where that is of no use for the next one."""
        outcome = self._outcome
        usage = outcome.receipts[0].usage if outcome.receipts else None
        if outcome.tally is None or outcome.decision.one_by_one or usage is None or not outcome.receipts[0].attempts:
            return self._habit
        of = outcome.decision.samples
        early, first = Tally(), Tally().needed(of)
        early.add(outcome.ballots[:first])
        known = self._habit
        return Habit(
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens / max(len(outcome.answers[0].texts), 1),
            votes=(known.votes if known else 0) + 1,
            decided=(known.decided if known else 0) + early.decided(of - first),
        )

    def _size(self, left: int) -> int:
        """How many samples to ask for now."""
        tally, planned, done = self._outcome.tally, _planned(self._outcome.decision), len(self._outcome.waves)
        if tally is None:
            return left
        if planned:
            return min(planned[done], left) if done < len(planned) - 1 else left
        needed = tally.needed(left)
        if self._outcome.decision.one_by_one:
            return needed
        # Once the prompt was paid for twice, it is not paid for a third time.
        if done or needed >= left or self._habit is None:
            return left
        return needed if worth_a_wave(self._habit, left - needed, self._price) else left

    def _note(self, answer: A, receipt: Receipt) -> None:
        outcome = self._outcome
        outcome.add(answer, receipt)
        if outcome.tally is not None:
            ballots = [ballot_of(text, self._vote_key) for text in answer.texts]
            outcome.ballots += ballots
            outcome.tally.add(ballots)


def _planned(decision: Decision) -> list[int]:
    """The waves that were tuned; empty where nobody says. What is left after the last but one is the last."""
    waves: Any = decision.proposal.notes.get("waves")
    known = isinstance(waves, list | tuple) and all(type(size) is int and size >= 1 for size in waves)
    return list(waves) if known else []
