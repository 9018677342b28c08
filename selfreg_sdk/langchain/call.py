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
from selfreg_sdk.facts import Request
from selfreg_sdk.langchain.results import Chunks, result, whole
from selfreg_sdk.langchain.setup import Setup
from selfreg_sdk.langchain.tracing import Parent, PlanRun
from selfreg_sdk.regulator import Decision

CALL = "selfreg_call"


@dataclass(kw_only=True, eq=False)
class Call:
    """A call on its way.

    Attributes:
        setup: what answers it.
        messages: as LangChain handed them over.
        request: what was read from them and the arguments.
        passed: arguments that pass through to an inner model.
        scorer, vote_key: how several samples become one answer.
        blocks: LangChain turns what is streamed into content blocks.
        decision: what is sent; None until it is known.
        answered: a model was asked, so the answer is from no cache of LangChain's.
    """

    setup: Setup
    messages: Sequence[BaseMessage]
    request: Request
    passed: Mapping[str, Any]
    scorer: Scorer | None
    vote_key: VoteKey
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
        return self.decision

    async def adecide(self) -> Decision:
        """`decide` for asyncio."""
        if self.decision is None:
            self.decision = await self.setup.answering.regulator.adecide(self.request)
        return self.decision

    # -- answering ----------------------------------------------------------------------------------------------------

    def complete(self) -> ChatResult:
        """The whole answer."""
        self.answered = True
        return self._result(self.setup.answering.complete(self.request, self.channel, decision=self.decide()))

    async def acomplete(self) -> ChatResult:
        """`complete` for asyncio."""
        self.answered = True
        decision = await self.adecide()
        return self._result(await self.setup.answering.acomplete(self.request, self.channel, decision=decision))

    def stream(self) -> Iterator[ChatGenerationChunk]:
        """The answer in chunks; in one, where several samples become one answer."""
        self.answered = True
        if self.request.aggregation.n > 1:
            yield whole(self.complete())
            return
        outcome: Outcome[Any] = Outcome(decision=self.decide())
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
        if self.request.aggregation.n > 1:
            yield whole(await self.acomplete())
            return
        outcome: Outcome[Any] = Outcome(decision=await self.adecide())
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

    def _result(self, outcome: Outcome[Any]) -> ChatResult:
        return result(outcome, scorer=self.scorer, vote_key=self.vote_key)
