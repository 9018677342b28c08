"""A cascade behind the face of a chat model: a first configuration answers, and where a filter does not let that pass, a second one.

One call is one run, one message and one record, whichever stages answered it. Every request of both is reserved and paid like any
other, under the same budgets.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import add_usage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from pydantic import PrivateAttr

from policies import Facts, Proposal
from policies.base import FactName
from selfreg_sdk.aggregate import ballot_of
from selfreg_sdk.answering import Outcome
from selfreg_sdk.chat_model import ChatSelfReg
from selfreg_sdk.client import Client
from selfreg_sdk.errors import BudgetExceeded, ConfigError, ProviderError
from selfreg_sdk.explanation import Explanation, explain
from selfreg_sdk.langchain.call import CALL, Call
from selfreg_sdk.langchain.calling import Stop
from selfreg_sdk.langchain.effective import cache_identity
from selfreg_sdk.langchain.requests import of_config
from selfreg_sdk.langchain.results import whole
from selfreg_sdk.langchain.tuned import given_by, prompt_of
from selfreg_sdk.runtime import Runtime
from selfreg_sdk.store.configs import ConfigRecord
from selfreg_sdk.tuner.cascade.config import CascadeConfig, Stage
from selfreg_sdk.tuner.study.ballots import vote_key_of
from selfreg_sdk.tuner.task.filters import Answers, Verdict

_OWN = frozenset({"model", "policy", "planner", "aggregation", "cascade", "ballot", "config_version"})
"""Fields of a cascade that are not those of its stages."""


class ChatCascade(ChatSelfReg):
    """`ChatSelfReg` for a task whose best configuration is a cascade; `ChatSelfReg.from_task` makes it.

    Both stages get the caller's prompt, tools and explicit parameters. ``response_metadata["selfreg"]`` is the record of the
    stage that answered, with the cost of both, and tells under "cascade" what each did and what the filter said.

    A second stage that cannot be had (its worst case does not fit the budget, its provider fails) leaves the answer of the
    first, which is paid for, with the flag ``second_stage_missing``. A first stage that fails is an error, as of any model.
    An answer without text, a call of a tool for example, never passes the filter. Streams arrive in one piece, as the
    answer of the first stage may still be replaced.

    Raises:
        ConfigError: as `ChatSelfReg`; around an inner model; or the filter's function cannot be imported.
    """

    cascade: Mapping[str, Any]
    """The cascade, as `CascadeConfig.written`."""
    ballot: Mapping[str, Any] | None = None
    """What votes and the filter's agreement compare, as `selfreg_sdk.tuner.study.ballots` writes it; None is the text."""
    config_version: int | None = None
    """The version in the store that holds all this."""

    _config: CascadeConfig = PrivateAttr()
    _stages: tuple[ChatSelfReg, ChatSelfReg] = PrivateAttr()

    def _settle(self, *, shared: Runtime | None = None, client: Client | None = None) -> None:
        config = CascadeConfig.read(self.cascade)
        if self.inner is not None:
            raise ConfigError("a cascade asks two models: it cannot run around one inner model; leave inner= out")
        for name in ("policy", "aggregation"):
            if name in self.model_fields_set:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}: the stages of a cascade bring their own; leave it out"
                )
        if self.model not in (None, config.second.model):
            raise ConfigError(f"model={self.model!r}: a cascade names its models itself; leave model= out")
        self.model, self._config = config.second.model, config
        super()._settle(shared=shared, client=client)
        given = {name: getattr(self, name) for name in self.model_fields_set - _OWN if name in ChatSelfReg.model_fields}
        made = []
        for stage in (config.first, config.second):
            policy = _StagePolicy(stage=stage, ballot=self.ballot, version=self.config_version)
            own = {"model": stage.model, "aggregation": stage.aggregation, "policy": policy, "planner": "off"}
            one = ChatSelfReg.model_construct(**given, **cast(Any, own))  # what was given is checked already
            one._settle(shared=self._ready.shared, client=self._ready.client)
            made.append(one)
        self._stages = made[0], made[1]

    def explain(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Explanation:
        """What the first stage would send, and why; the worst case is that of both stages."""
        messages = self._convert_input(input).to_messages()
        call = self._read(messages, kwargs.pop("stop", None), of_config(config, kwargs))
        first, second = (explain(one.setup.answering, one.request) for one in (call, call.second))
        worst = (first.worst_case_usd, second.worst_case_usd)
        return replace(
            first,
            worst_case_usd=None if worst[0] is None or worst[1] is None else worst[0] + worst[1],
            most_requests=first.most_requests + second.most_requests,
        )

    @property
    def tuned_prompt(self) -> ChatPromptTemplate:
        """As of `ChatSelfReg`: the prompt of both stages."""
        if self.config_version is None:
            raise ConfigError("this cascade is of no stored version, so no prompt was tuned for it")
        return prompt_of(self._ready.shared.configs.get(self.config_version))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**super()._identifying_params, **self._config.written()}

    def _read(self, messages: list[BaseMessage], stop: Stop, kwargs: Mapping[str, Any]) -> CascadeCall:
        if kwargs.get("model") not in (None, self.model):
            raise ConfigError(f"model={kwargs['model']!r}: a cascade names its models itself; leave model= out")
        about = {name: value for name, value in kwargs.items() if name != "model"}
        first, second = (stage._read(messages, stop, about) for stage in self._stages)
        second.request = replace(second.request, id=first.request.id)
        return CascadeCall(
            setup=first.setup,
            messages=first.messages,
            request=first.request,
            passed=first.passed,
            scorer=first.scorer,
            vote_key=first.vote_key,
            blocks=first.blocks,
            second=second,
            config=self._config,
        )

    def _get_llm_string(self, stop: Stop = None, **kwargs: Any) -> str:
        call = kwargs.get(CALL)
        if not isinstance(call, CascadeCall):
            return super()._get_llm_string(stop, **kwargs)
        stages = [cache_identity(one, output_version=self.output_version) for one in (call, call.second)]
        return json.dumps([*stages, self._config.gate.written()], sort_keys=True)


def cascade_of(stored: ConfigRecord, **given: Any) -> ChatCascade:
    """The model that runs a stored cascade.

    Raises:
        ConfigError: what is stored is none that this version understands, or an argument that cannot work.
    """
    told = {name: value for name in ("cascade", "ballot") if (value := stored.provenance.get(name)) is not None}
    found = {name: value for name, value in given_by(stored).items() if name != "model"}
    return ChatCascade(**(told | found | given), config_version=stored.id)


@dataclass(frozen=True, kw_only=True)
class _StagePolicy:
    """Always the parameters of a stage, as they were tuned."""

    stage: Stage
    ballot: Mapping[str, Any] | None
    version: int | None

    def missing(self, facts: Facts) -> FactName | None:
        """Needs nothing."""
        return None

    def propose(self, facts: Facts) -> Proposal | None:
        """The stage's parameters. Its samples come in one wave: where a vote ends early, nobody knows how far they agree."""
        notes: dict[str, Any] = {"waves": [self.stage.aggregation.n]}
        if self.ballot is not None:
            notes["ballot"] = self.ballot
        return Proposal(params=self.stage.params, source="tuned", config_version=self.version, notes=notes)


@dataclass(kw_only=True, eq=False)
class CascadeCall(Call):
    """A call of the first stage, which may lead to one of the second.

    Attributes:
        second: that one.
        config: of both.
        outcome: of the first stage, once it answered.
    """

    second: Call
    config: CascadeConfig
    outcome: Outcome[Any] | None = None

    def complete(self) -> ChatResult:
        """The whole answer."""
        first = super().complete()
        verdict = self.config.gate.passes(self._answers(first))
        if verdict.passed:
            return self._told(first, None, verdict)
        try:
            return self._told(first, self.second.complete(), verdict)
        except (BudgetExceeded, ProviderError) as error:
            return self._told(first, None, verdict, missing=error)

    async def acomplete(self) -> ChatResult:
        """`complete` for asyncio."""
        first = await super().acomplete()
        verdict = await self.config.gate.apasses(self._answers(first))
        if verdict.passed:
            return self._told(first, None, verdict)
        try:
            return self._told(first, await self.second.acomplete(), verdict)
        except (BudgetExceeded, ProviderError) as error:
            return self._told(first, None, verdict, missing=error)

    def stream(self) -> Iterator[ChatGenerationChunk]:
        """The answer in one chunk."""
        yield whole(self.complete())

    async def _chunks(self) -> AsyncGenerator[ChatGenerationChunk, None]:
        yield whole(await self.acomplete())

    def _result(self, outcome: Outcome[Any], flags: tuple[str, ...]) -> ChatResult:
        self.outcome = outcome
        return super()._result(outcome, flags)

    def _answers(self, first: ChatResult) -> Answers:
        """What the filter is asked about."""
        outcome = cast(Outcome[Any], self.outcome)
        texts = [text or None for answer in outcome.answers for text in answer.texts]
        ballots = list(outcome.ballots)
        if outcome.tally is None:
            key = self.vote_key or vote_key_of(outcome.decision.proposal.notes.get("ballot"))[0]
            ballots = [ballot_of(text, key) for text in texts]
        # Samples that could not be had agree with none.
        missing = max(outcome.decision.samples - len(texts), 0)
        chosen = str(first.generations[0].message.text) or None
        return Answers(
            texts=(*texts, *[None] * missing),
            ballots=(*ballots, *[None] * missing),
            chosen=texts.index(chosen) if chosen in texts else 0,
        )

    def _told(
        self, first: ChatResult, second: ChatResult | None, verdict: Verdict, *, missing: Exception | None = None
    ) -> ChatResult:
        """The answer, with what both stages used and did cost."""
        answer = second or first
        told = [_record(stage) for stage in (first, second) if stage is not None]
        costs = [None if record["cost_usd"] is None else Decimal(record["cost_usd"]) for record in told]
        known = [cost for cost in costs if cost is not None]
        flags = [*told[0]["flags"]]
        if verdict.problem is not None:
            flags.append(f"filter_failed: {verdict.problem}")
        if missing is not None:
            flags.append(f"second_stage_missing: {type(missing).__name__}")
        record = told[-1] | {
            "cost_usd": str(sum(known, Decimal(0))) if len(known) == len(costs) else None,
            "attempts": sum(record["attempts"] for record in told),
            "flags": list(dict.fromkeys([*flags, *told[-1]["flags"]])),
            "cascade": {
                "answered": "first" if second is None else "second",
                "passed": verdict.passed,
                "level": verdict.level,
                "filter": self.config.gate.written(),
                "stages": [
                    {"model": stage.model, **{name: record.get(name) for name in ("cost_usd", "samples", "votes")}}
                    for stage, record in zip((self.config.first, self.config.second), told, strict=False)
                ],
            },
        }
        message = cast(AIMessage, answer.generations[0].message)
        message.response_metadata = {**message.response_metadata, "selfreg": record}
        if second is not None:
            message.usage_metadata = add_usage(_message(first).usage_metadata, message.usage_metadata)
            answer.llm_output = {**(answer.llm_output or {}), "token_usage": message.usage_metadata}
        return answer


def _message(result: ChatResult) -> AIMessage:
    return cast(AIMessage, result.generations[0].message)


def _record(result: ChatResult) -> dict[str, Any]:
    return cast(dict[str, Any], _message(result).response_metadata["selfreg"])
