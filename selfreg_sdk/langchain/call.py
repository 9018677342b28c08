"""One call of a `ChatSelfReg`: what was read from its arguments, what is decided about it, and how it is answered.

LangChain hands arguments from method to method, but not what was read from them; the call therefore travels among the
arguments, under a name that is taken out wherever arguments are shown, compared or sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from selfreg_sdk.aggregate import Scorer, VoteKey
from selfreg_sdk.answering import Outcome
from selfreg_sdk.channel import Channel
from selfreg_sdk.decision import Decision
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.facts import Request
from selfreg_sdk.langchain.results import Chunks, result, whole
from selfreg_sdk.langchain.setup import Setup
from selfreg_sdk.langchain.tracing import Parent, PlanRun

CALL = "selfreg_call"


@dataclass(kw_only=True, eq=False)
class Call:
    """A call on its way.

    Attributes:
        setup: what answers it.
        messages: as LangChain handed them over.
        request: what was read from them and the arguments.
        passed: arguments that pass through to an inner model.
        scorer, vote_key: how several samples become one answer; the latter None where the caller says nothing.
        blocks: LangChain turns what is streamed into content blocks.
        decision: what is sent; None until it is known.
        answered: a model was asked, so the answer is from no cache of LangChain's.
    """

    setup: Setup
    messages: Sequence[BaseMessage]
    request: Request
    passed: Mapping[str, Any]
    scorer: Scorer | None
    vote_key: VoteKey | None
    blocks: bool = False
    decision: Decision | None = None
    answered: bool = False
    _open: AsyncGenerator[ChatGenerationChunk, None] | None = None

    def about(self, messages: Sequence[BaseMessage]) -> bool:
        """Whether it was read from these very messages: LangChain rewrites those with older forms of images and files."""
        mine = self.messages
        return len(mine) == len(messages) and all(one is other for one, other in zip(mine, messages, strict=True))

    @property
    def channel(self) -> Channel[Any, Any]:
        """What carries it."""
        return self.setup.channel(self.messages, self.passed)

    # -- deciding -----------------------------------------------------------------------------------------------------

    def foresee(self) -> None:
        """Decide now, before the run starts, unless that takes a planning call: traces then tell what is sent.

        What cannot work is left to `decide`, which says so inside the run, where traces see it.
        """
        with suppress(Exception):
            self.decision = self.decision or self.setup.answering.regulator.settled(self.request)

    async def aforesee(self) -> None:
        """`foresee` for asyncio."""
        with suppress(Exception):
            self.decision = self.decision or await self.setup.answering.regulator.asettled(self.request)

    def nest(self, parent: Parent) -> None:
        """Show a planning call as a run inside ``parent``, if one is made."""
        if self.decision is None:
            self.request = replace(self.request, watch=PlanRun(parent, provider=self.setup.planner_provider))

    def decide(self) -> Decision:
        """What is sent; plans if need be."""
        if self.decision is None:
            self.decision = self.setup.answering.regulator.decide(self.request)
        return self._usable(self.decision)

    async def adecide(self) -> Decision:
        """`decide` for asyncio."""
        if self.decision is None:
            self.decision = await self.setup.answering.regulator.adecide(self.request)
        return self._usable(self.decision)

    def ballots(self, decision: Decision) -> tuple[VoteKey | None, tuple[str, ...]]:
        """From text to ballot, with flags: the caller's word, else that of the tuned configuration; None is the text.

        Raises:
            ConfigError: a function of the user's that the tuned configuration names cannot be used.
        """
        spec = decision.proposal.notes.get("ballot")
        if self.vote_key is not None or spec is None or decision.aggregation.kind != "vote":
            return self.vote_key, ()
        from selfreg_sdk.tuner.study.ballots import vote_key_of

        return vote_key_of(spec)

    def _usable(self, decision: Decision) -> Decision:
        if decision.aggregation.kind == "best" and self.scorer is None:
            how, version = str(decision.aggregation), decision.proposal.config_version
            raise ConfigError(
                f"task {decision.task.task!r} was tuned to take the {how!r} (config version {version}), which needs a scorer: "
                "pass scorer=<function from text to number>, or aggregation='first'"
            )
        return decision

    # -- answering ----------------------------------------------------------------------------------------------------

    def complete(self) -> ChatResult:
        """The whole answer."""
        self.answered = True
        decision = self.decide()
        key, flags = self.ballots(decision)
        outcome = self.setup.answering.complete(self.request, self.channel, decision=decision, vote_key=key)
        return self._result(outcome, flags)

    async def acomplete(self) -> ChatResult:
        """`complete` for asyncio."""
        self.answered = True
        decision = await self.adecide()
        key, flags = self.ballots(decision)
        outcome = await self.setup.answering.acomplete(self.request, self.channel, decision=decision, vote_key=key)
        return self._result(outcome, flags)

    def stream(self) -> Iterator[ChatGenerationChunk]:
        """The answer in chunks; in one, where several samples become one answer."""
        self.answered = True
        decision = self.decide()
        if decision.aggregation.n > 1:
            yield whole(self.complete())
            return
        outcome: Outcome[Any] = Outcome(decision=decision)
        chunks = Chunks(blocks=self.blocks)
        for piece in self.setup.answering.stream(self.request, self.channel, outcome):
            if (chunk := chunks.of(piece)) is not None:
                yield chunk
        yield chunks.last(outcome)

    def astream(self) -> AsyncGenerator[ChatGenerationChunk, None]:
        """`stream` for asyncio; `aclose` ends it where its consumer leaves."""
        self._open = self._chunks()
        return self._open

    async def _chunks(self) -> AsyncGenerator[ChatGenerationChunk, None]:
        self.answered = True
        decision = await self.adecide()
        if decision.aggregation.n > 1:
            yield whole(await self.acomplete())
            return
        outcome: Outcome[Any] = Outcome(decision=decision)
        chunks = Chunks(blocks=self.blocks)
        async with aclosing(self.setup.answering.astream(self.request, self.channel, outcome)) as pieces:
            async for piece in pieces:
                if (chunk := chunks.of(piece)) is not None:
                    yield chunk
        yield chunks.last(outcome)

    async def aclose(self) -> None:
        """Close the books and the connection of a stream that was left: now, and not when it is collected."""
        if self._open is not None:
            await self._open.aclose()

    def _result(self, outcome: Outcome[Any], flags: tuple[str, ...]) -> ChatResult:
        outcome.flag(*flags)
        return result(outcome, scorer=self.scorer)
