"""EcoOptiGen (arXiv 2303.04673): search under a cost per request, with hopeless configurations stopped early by their cost.

A configuration is tried with few samples on few examples first. Its output tokens per request are compared with what the
budget per request leaves after the prompt: clearly above, the trial ends; clearly below, the number of samples doubles at
once, without looking at further examples. What is learned about n and max_tokens holds for the whole region (model,
prompt, stop), so that later trials start high or need no call at all.

As in the paper: the searcher decides what to try; the margin around the budget is 0.1 sqrt(rho / d), in the shape of
the bound for sampling without replacement; samples asked for in parts count as if asked for together.

Unlike the published code: parts are new samples, and those of an early stop are kept; the first trial is held to the
budget like all others, with the prompt's tokens known from its first answer on; what is not within the budget has no
value and is never returned, whether more or less is better; a failed call says nothing about n; state belongs to one
search; prompts are always filled in; prices of all models are known before the first call; best_of is never split nor
below n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Protocol

from selfreg_sdk.errors import BudgetExceeded, ConfigError
from selfreg_sdk.prices import Price, cost
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.search.dimensions import Point
from selfreg_sdk.tuner.search.drawing import Drawn, DrawRequest, DrawStep, Results, Sample, ScoreStep, Step
from selfreg_sdk.tuner.search.regions import Region, region_key, rho
from selfreg_sdk.tuner.search.search import Mode, Proposal, Searcher
from selfreg_sdk.tuner.search.trials import Ending, Fate, Found, Trial, best_trial
from selfreg_sdk.usage import Usage

_IDLE = 500
"""Proposals in a row that were pruned without a call, after which the searcher is taken to be stuck."""

_SHORT = 20
"""Trials in a row that the money left did not pay for, after which it counts as spent: before that a cheaper one may fit."""


class Rendered(Protocol):
    """A prompt template, such as `selfreg_sdk.tuner.examples.prompts.Prompt`."""

    def render(self, example: Example) -> Sequence[Mapping[str, str]]:
        """The messages for an example; ConfigError if a field is missing."""
        ...


@dataclass
class _Answers:
    """What one example got so far in one trial."""

    samples: list[Sample] = field(default_factory=list)
    asked: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def add(self, asked: int, drawn: Drawn) -> None:
        self.samples += drawn.samples
        self.asked += asked
        self.prompt_tokens = drawn.prompt_tokens
        self.output_tokens += drawn.output_tokens


class _Ended(Exception):
    """The trial is over."""

    def __init__(self, fate: Fate, reason: str = "", *, mean_cost: Decimal | None = None) -> None:
        super().__init__(reason)
        self.fate, self.reason, self.mean_cost = fate, reason, mean_cost


class EcoOptiGen:
    """One search. It draws nothing itself: run its generators with `drive` or `adrive`.

    Points name a "model" and a "prompt", and usually "n" and "max_tokens"; everything else in them is sent as it is. If
    "best_of" is among them, it takes the part of n.

    Args:
        examples: in the order in which they shall be used.
        prompts: name to template.
        models: every model that a point may name.
        price: of a model; raises UnknownPriceError.
        inference_budget: USD per request on average.
        total_budget: USD after which no further step is taken. The step in flight may exceed it: the hard cap belongs to
            whoever draws.
        mode: whether more is better.
        prune: False tries every configuration in full, and holds it to the budget afterwards.

    Raises:
        ConfigError: no examples, a prompt that cannot be filled in, a price that is not known.
    """

    def __init__(
        self,
        *,
        examples: Sequence[Example],
        prompts: Mapping[str, Rendered],
        models: Sequence[str],
        price: Callable[[str], Price],
        inference_budget: Decimal,
        total_budget: Decimal | None = None,
        mode: Mode = "max",
        prune: bool = True,
    ) -> None:
        if not examples:
            raise ConfigError("there are no examples to tune on; give at least one")
        if mode not in ("max", "min"):
            raise ConfigError(f"mode {mode!r}: write 'max' or 'min'")
        self._examples = tuple(examples)
        self._messages = {name: [prompt.render(example) for example in examples] for name, prompt in prompts.items()}
        self._prices = {model: price(model) for model in models}
        self._per_request, self._total = inference_budget, total_budget
        self._mode, self._prune = mode, prune
        self._regions: dict[str, Region] = {}
        # (model, prompt) → example → tokens: the prompt's cost is known before a configuration of it is tried again.
        self._prompt_tokens: dict[tuple[str, str], dict[int, int]] = {}
        self._paid: set[tuple[tuple[str, int], int]] = set()
        self.spent = Decimal(0)

    def search(
        self, searcher: Searcher, *, max_trials: int | None = None, on_trial: Callable[[Trial], None] | None = None
    ) -> Generator[Step, Results, Found]:
        """Try what the searcher proposes until the money, the trials or the proposals run out.

        Args:
            searcher: of the same mode; told None for everything that has no value.
            max_trials: at most so many, those without a call included.
            on_trial: called after each.
        """
        trials: list[Trial] = []
        ending: Ending | None = None
        idle = short = 0
        while ending is None:
            if max_trials is not None and len(trials) >= max_trials:
                ending = "trials"
            elif self._used_up() or short >= _SHORT:
                ending = "budget"
            elif idle >= _IDLE:
                ending = "idle"
            elif (proposal := searcher.ask()) is None:
                ending = "space"
            else:
                trial = yield from self.trial(proposal)
                trials.append(trial)
                searcher.tell(proposal.id, trial.value, float(trial.spent))
                idle = idle + 1 if trial.fate == "pruned" else 0
                if trial.fate != "pruned":
                    short = short + 1 if trial.fate == "unfinished" else 0
                if on_trial is not None:
                    on_trial(trial)
        return Found(best=best_trial(trials, self._mode), trials=tuple(trials), spent=self.spent, ending=ending)

    def trial(self, proposal: Proposal) -> Generator[Step, Results, Trial]:
        """Try one proposal.

        Raises:
            ConfigError: it names a model or a prompt that was not announced.
        """
        before = self.spent
        value: float | None = None
        try:
            answers, mean_cost = yield from self._answers(proposal.point)
            value = yield from self._value(answers)
            end = _Ended("scored", mean_cost=mean_cost)
        except _Ended as early:
            end = early
        return Trial(
            id=proposal.id,
            point=proposal.point,
            fate=end.fate,
            value=value,
            mean_cost=end.mean_cost,
            spent=self.spent - before,
            reason=end.reason,
        )

    def _answers(self, point: Point) -> Generator[Step, Results, tuple[list[_Answers], Decimal]]:
        """All samples of a configuration on all examples, and what a request costs on average."""
        price, name = self._known(point)
        doubled = "best_of" if point.get("best_of") is not None else "n"
        wanted, least = point.get(doubled) or 1, (point.get("n") or 1) if doubled == "best_of" else 1
        if wanted < least:
            raise _Ended("failed", f"best_of={wanted} is below n={least}, which no endpoint accepts")
        max_tokens = point.get("max_tokens") or math.inf
        region = self._regions.setdefault(region_key(point), Region())
        level = max(self._first_level(point, region, wanted, max_tokens), least)
        size, answers = len(self._examples), [_Answers() for _ in self._examples]
        while True:
            if doubled == "best_of":
                # The best of two halves is two samples, not the best of the whole: every level is drawn anew.
                answers = [_Answers() for _ in self._examples]
            seen, clear = (1 if self._prune else size), False
            while not clear:
                yield from self._draw(point, name, answers[:seen], level, doubled, least)
                allowed = self._allowed_tokens(price, point)
                tokens = sum(answer.output_tokens for answer in answers[:seen]) / seen
                # Without a price for output all or nothing is allowed, and there is nothing to be unsure of.
                margin = 0.0 if math.isinf(allowed) else 0.1 * math.sqrt(rho(seen, size) / seen) * abs(allowed)
                if self._prune and tokens > allowed + margin:
                    region.found_invalid(level, max_tokens)
                    raise _Ended("over_budget", f"{tokens:.0f} output tokens a request at {doubled}={level}")
                if seen == size or (level < wanted and tokens <= allowed - margin):
                    clear = True
                else:
                    seen = min(2 * seen, size)
            if level == wanted:
                mean_cost = self._mean_cost(price, answers)
                if mean_cost > self._per_request:
                    region.found_invalid(level, max_tokens)
                    raise _Ended("over_budget", f"{mean_cost:.6f} USD a request", mean_cost=mean_cost)
            region.found_valid(level, max_tokens)
            if level == wanted:
                return answers, mean_cost
            level = min(2 * level, wanted)

    def _first_level(self, point: Point, region: Region, wanted: int, max_tokens: float) -> int:
        """So many samples need no check, or one more than that."""
        if not self._prune:
            return wanted
        valid = region.valid_n(max_tokens)
        if self._prompt_tokens.get((point["model"], point["prompt"])):
            allowed = self._allowed_tokens(self._prices[point["model"]], point)
            # Answers of full length fit so many times; without a price for output, as often as one likes.
            fits = wanted if math.isinf(allowed) and allowed > 0 else int(max(allowed, 0.0) // max_tokens)
            valid = max(valid, fits)
        if wanted <= valid:
            return wanted
        if wanted >= region.invalid_n(max_tokens):
            raise _Ended("pruned", "as many samples of at most this length were over budget before")
        return valid + 1

    def _draw(
        self, point: Point, name: str, answers: Sequence[_Answers], level: int, doubled: str, least: int
    ) -> Generator[Step, Results, None]:
        """Give each example as many samples as the level wants."""
        config = {key: value for key, value in point.items() if key != "n"}
        if doubled == "best_of":
            config["best_of"] = level
        targets = [(index, answer, level - answer.asked) for index, answer in enumerate(answers)]
        targets = [target for target in targets if target[2]]
        if not targets:
            return
        if self._used_up():
            raise _Ended("unfinished", "the total budget is spent")
        requests = tuple(
            DrawRequest(
                config=config,
                messages=self._messages[name][index],
                example=self._examples[index],
                start=answer.asked,
                count=least if doubled == "best_of" else missing,
            )
            for index, answer, missing in targets
        )
        results = yield DrawStep(requests=requests)
        known = self._prompt_tokens.setdefault((point["model"], name), {})
        errors: list[Exception] = []
        for (index, answer, missing), result in zip(targets, results, strict=False):
            if isinstance(result, Drawn):
                answer.add(missing, result)
                known[index] = result.prompt_tokens
                self.spent += self._new_cost(result)
            else:
                errors.append(result)
        if any(isinstance(error, BudgetExceeded) for error in errors):
            raise _Ended("unfinished", "the total budget is spent")
        if errors:
            raise _Ended("failed", f"{type(errors[0]).__name__}: {errors[0]}")

    def _new_cost(self, drawn: Drawn) -> Decimal:
        """Its cost, once: trials that differ in n alone may be served the same draw of a journal."""
        at = drawn.samples[0].at if drawn.samples else None
        if at is not None:
            if (at, len(drawn.samples)) in self._paid:
                return Decimal(0)
            self._paid.add((at, len(drawn.samples)))
        return drawn.cost

    def _value(self, answers: Sequence[_Answers]) -> Generator[Step, Results, float]:
        """The mean value over the examples."""
        pairs = zip(self._examples, answers, strict=True)
        values = yield ScoreStep(answers=tuple((example, tuple(answer.samples)) for example, answer in pairs))
        for example, value in zip(self._examples, values, strict=False):
            if isinstance(value, BudgetExceeded):
                raise _Ended("unfinished", "the total budget is spent")
            if isinstance(value, Exception):
                raise _Ended("failed", f"scoring example {example.id!r}: {type(value).__name__}: {value}")
            if not (isinstance(value, Real) and math.isfinite(value)):
                raise _Ended("failed", f"scoring example {example.id!r} gave {value!r}")
        return math.fsum(values) / len(values)

    def _allowed_tokens(self, price: Price, point: Point) -> float:
        """Output tokens a request may have after its prompt is paid, by the prompts seen so far."""
        seen = self._prompt_tokens[point["model"], point["prompt"]]
        prompt = Decimal(sum(seen.values())) / len(seen)
        left = self._per_request - price.per_request - prompt * price.input_per_token
        if price.output_per_token:
            return float(left / price.output_per_token)
        return math.inf if left >= 0 else -math.inf

    def _mean_cost(self, price: Price, answers: Sequence[_Answers]) -> Decimal:
        costs = [
            cost(price, Usage(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.output_tokens))
            for answer in answers
        ]
        return sum(costs, Decimal(0)) / len(costs)

    def _known(self, point: Point) -> tuple[Price, str]:
        for key, known in (("model", self._prices), ("prompt", self._messages)):
            if point.get(key) not in known:
                raise ConfigError(f"{key} {point.get(key)!r} was not announced; there are {', '.join(known)}")
        return self._prices[point["model"]], point["prompt"]

    def _used_up(self) -> bool:
        return self._total is not None and self.spent >= self._total
