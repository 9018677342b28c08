"""F36: a canary key and a canary prompt are looked for wherever a program leaves traces."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps
from langchain_openai import ChatOpenAI

from selfreg_sdk import ChatSelfReg
from selfreg_sdk.client import Client
from selfreg_sdk.config import Settings, load_settings
from selfreg_sdk.errors import SelfregError
from selfreg_sdk.planner import Planned
from tests.fake_provider import (
    FakeProvider,
    Fault,
    RejectParam,
    closed_before_headers,
    context_length_exceeded,
    early_close,
    hang_before_headers,
    html_200,
    status,
)
from tests.faults.clients import QUICK as SHORT
from tests.faults.clients import must_fail
from tests.stack import CREATIVE, MODEL, PRICES, chat, plans

KEY = "sk-CANARYkey0123456789abcdef"
HEADER = "CANARYheader0123456789"
PROMPT = "CANARYprompt who killed the canary"
ANSWER = "CANARYanswer it was the cat"
SECRETS = (KEY, HEADER)

FAILURES: dict[str, Fault] = {
    "unauthorised": status(401, f"Incorrect API key provided: {KEY}. Header {HEADER}."),
    "forbidden": status(403, body=f"no entry for {KEY}"),
    "bad request": status(400, "no"),
    "context": context_length_exceeded(),
    "html": html_200(),
    "closed": closed_before_headers(),
    "hang": hang_before_headers(),
    "server": status(500, "oops"),
}


class Traces(BaseCallbackHandler):
    """Everything LangChain tells a tracer about a run, except for the messages themselves."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **more: Any) -> None:
        self.seen.append(f"{serialized!r} {more!r}")

    def on_llm_end(self, response: Any, **more: Any) -> None:
        self.seen.append(f"{response!r} {more!r}")

    def on_llm_error(self, error: BaseException, **more: Any) -> None:
        self.seen.append(f"{error!r} {more!r}")


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What all loggers write when everything is switched on."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    before = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        for name, old in before.items():
            logging.getLogger(name).setLevel(old)


def make(provider: FakeProvider, store: Path, **given: Any) -> ChatSelfReg:
    usual = {"api_key": KEY, "default_headers": {"X-Gate": HEADER}, "timeouts": SHORT, "task": "t", "planner": "auto"}
    return chat(provider, store=store, **{**usual, **given})


def files(folder: Path) -> bytes:
    """Every byte the store left behind, its journal included."""
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def story(error: BaseException) -> str:
    """An error with everything that hangs on it, as text."""
    told, pending, seen = [], [error], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        told += [str(one), repr(one), repr(one.args), repr(vars(one))]
        told += traceback.format_exception(one)
        pending += [other for other in (one.__cause__, one.__context__) if other is not None]
    return "\n".join(told)


def holds_none(text: str | bytes, canaries: tuple[str, ...]) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    for canary in canaries:
        assert canary.encode() not in data, (
            f"{canary!r} found in {data[max(0, data.find(canary.encode()) - 80) :][:200]!r}"
        )


# -- where a program leaves traces -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("transport")
async def test_f36_logs_store_and_traces_of_calls_that_succeed(
    provider: FakeProvider, tmp_path: Path, logged: io.StringIO
) -> None:
    provider.reply = plans(f"As you ask about {PROMPT}: {CREATIVE.to_json()}", ANSWER)
    provider.rules.append(RejectParam(param="top_p"))
    traces = Traces()
    model = make(provider, tmp_path / "store.db", budget="1 USD")
    config: Any = {"callbacks": [traces]}
    model.invoke(PROMPT, config)
    await model.ainvoke(PROMPT, config)
    list(model.stream(PROMPT, config))
    [chunk async for chunk in model.astream(PROMPT, config)]

    assert len(provider.requests) == 1 + 1 + 4
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in provider.requests)
    assert all(request.headers["x-gate"] == HEADER for request in provider.requests)
    holds_none(files(tmp_path), (*SECRETS, PROMPT, ANSWER))
    holds_none("\n".join(traces.seen), (*SECRETS, PROMPT))
    holds_none(logged.getvalue(), SECRETS)
    ours = [line for line in logged.getvalue().splitlines() if "selfreg" in line]
    holds_none("\n".join(ours), (PROMPT, ANSWER))


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("name", FAILURES)
def test_f36_errors_with_everything_that_hangs_on_them(
    provider: FakeProvider, tmp_path: Path, logged: io.StringIO, name: str
) -> None:
    traces = Traces()
    model = make(provider, tmp_path / "store.db", planner="off")
    for use in (model.invoke, lambda *args: list(model.stream(*args))):
        provider.script(*[FAILURES[name]] * 3)
        with pytest.raises(SelfregError) as caught:
            use(PROMPT, {"callbacks": [traces]})

        holds_none(story(caught.value), (*SECRETS, PROMPT))
        holds_none(repr(pickle.dumps(caught.value.args)), (*SECRETS, PROMPT))
        with provider._changed:
            provider._queue.clear()
    holds_none(files(tmp_path), (*SECRETS, PROMPT))
    holds_none("\n".join(traces.seen), (*SECRETS, PROMPT))
    holds_none(logged.getvalue(), SECRETS)


def test_f36_a_truncated_stream_is_not_stored(provider: FakeProvider, tmp_path: Path) -> None:
    provider.reply = plans(CREATIVE.to_json(), ANSWER)
    provider.script(early_close("chunked", share=0.5))
    with pytest.raises(SelfregError):
        list(make(provider, tmp_path / "store.db", planner="off", cache_answers=True).stream(PROMPT))

    holds_none(files(tmp_path), (*SECRETS, PROMPT, "CANARYanswer"))


def test_f36_errors_before_anything_is_sent(tmp_path: Path) -> None:
    for wrong in (
        {"base_url": f"http://user:{KEY}@127.0.0.1:1/v1"},
        {"base_url": f"http://127.0.0.1:1/v1?key={KEY}"},
        {"api_key": KEY + "\n"},
        {"api_key": [KEY]},
        {"default_headers": {"X-Gate": HEADER + "\r\nX: y"}},
        {"default_headers": [HEADER]},
        {"api_key": KEY, "temprature": 0.3},
        {"api_key": KEY, "budget": "much"},
    ):
        with pytest.raises(SelfregError) as caught:
            ChatSelfReg(**{"model": MODEL, "store": ":memory:", "planner": "off", **wrong})
        holds_none(story(caught.value), SECRETS)


def test_f36_objects_and_their_serialised_forms(provider: FakeProvider, tmp_path: Path) -> None:
    model = make(provider, tmp_path / "store.db")
    client = Client(base_url=provider.base_url, api_key=KEY, default_headers={"X-Gate": HEADER})
    settings = load_settings(model=MODEL, api_key=KEY)
    inner = ChatSelfReg(
        inner=ChatOpenAI(model=MODEL, base_url=provider.base_url, api_key=KEY), store=":memory:", prices=PRICES
    )
    for thing in (model, inner, client, settings, model.books, model._ready, model.bind(stop=["x"])):
        for text in (repr(thing), str(thing), f"{thing}"):
            holds_none(text, SECRETS)
    for chat_model in (model, inner):
        holds_none(repr(chat_model.model_dump()), SECRETS)
        holds_none(dumps(chat_model), SECRETS)
        holds_none(json.dumps(dumpd(chat_model)), SECRETS)
        holds_none(repr(chat_model._identifying_params), SECRETS)
        holds_none(chat_model._get_llm_string(), SECRETS)
        holds_none(repr(chat_model._get_ls_params()), SECRETS)
    holds_none(settings.model_dump_json(), SECRETS)
    holds_none(repr(Settings.model_fields), SECRETS)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_f36_what_holds_a_key_is_not_pickled(provider: FakeProvider, tmp_path: Path, protocol: int) -> None:
    model = make(provider, tmp_path / "store.db")
    for thing in (model, Client(base_url=provider.base_url, api_key=KEY), model.bind(stop=["x"])):
        written = io.BytesIO()
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as caught:
            pickle.Pickler(written, protocol).dump(thing)
        holds_none(story(caught.value), SECRETS)


def test_f36_a_prompt_is_stored_only_where_the_user_keeps_answers(provider: FakeProvider, tmp_path: Path) -> None:
    provider.reply = plans(CREATIVE.to_json(), ANSWER)
    for name, keep in (("without", False), ("with", True)):
        folder = tmp_path / name
        model = make(provider, folder / "store.db", cache_answers=keep)
        model.invoke(PROMPT)
        model.invoke(PROMPT)

        holds_none(files(folder), (*SECRETS, PROMPT))  # of the prompt only a hash is kept, even then
        assert (ANSWER.encode() in files(folder)) is keep
    assert sum(payload["messages"][-1]["content"] == PROMPT for payload in provider.payloads) == 2 + 1


def test_f36_a_copied_model_still_works_and_still_hides(provider: FakeProvider, tmp_path: Path) -> None:
    model = make(provider, tmp_path / "store.db", planner="off")
    holds_none(repr(copy.copy(model)), SECRETS)
    assert copy.copy(model).invoke("hi").text == "echo: hi"


# -- tests of the tests ------------------------------------------------------------------------------------------------


def test_f36_the_check_catches_a_planner_whose_words_are_kept(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def telling(planned: Planned, *, planner: str, request_id: str) -> dict[str, Any]:
        """Broken on purpose: keeps what the planner said, and it quoted the prompt."""
        return {"kind": "planned", "said": f"You asked: {PROMPT}"}

    monkeypatch.setattr("selfreg_sdk.facts.provenance", telling)
    provider.reply = plans(CREATIVE.to_json(), ANSWER)
    make(provider, tmp_path / "store.db").invoke(PROMPT)

    must_fail(holds_none, files(tmp_path), (PROMPT,))


@pytest.mark.usefixtures("transport")
def test_f36_the_check_catches_a_client_that_repeats_what_it_is_told(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "_redact", lambda self, error: None)
    provider.script(FAILURES["unauthorised"])
    with pytest.raises(SelfregError) as caught:
        make(provider, tmp_path / "store.db", planner="off").invoke(PROMPT)

    must_fail(holds_none, story(caught.value), SECRETS)


def test_f36_the_check_looks_behind_the_error(logged: io.StringIO) -> None:
    try:
        try:
            raise ValueError(KEY)
        except ValueError:
            raise SelfregError("hidden") from None
    except SelfregError as error:
        must_fail(holds_none, story(error), SECRETS)
    logging.getLogger("any.package").debug("sent %s", KEY)
    must_fail(holds_none, logged.getvalue(), SECRETS)
