"""F13: broken streams. No silent truncation: half a text is an error, noise is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from selfreg_sdk.errors import MalformedReply, ProviderError, RateLimited, ServerFailed, TruncatedStream
from tests import fake_provider as fake
from tests.fake_provider import FakeProvider
from tests.faults.clients import ANSWER, ASK, CALM, STREAMED, Face, NaiveStreamer, caught, make, must_fail, stream

both_transports = pytest.mark.usefixtures("transport")

CUT = [
    fake.early_close("chunked"),
    fake.early_close("close"),
    fake.early_close("close", share=0.02),
    fake.early_close("chunked", share=0.7),
    fake.reset_mid_body(),
    fake.no_finish_reason(),
    fake.Fault(edit_events=lambda events: events[:2]),
    fake.Fault(edit_events=lambda events: [*events[:2], "[DONE]"]),
    fake.Fault(edit_events=lambda events: ["[DONE]"]),
]


def check_cut(provider: FakeProvider, face: Face, client: Any, fault: fake.Fault) -> None:
    provider.script(fault)
    error = caught(TruncatedStream, face, client)
    assert (error.retryable, error.billed) == (True, "unknown")
    assert ANSWER.startswith(error.partial)
    assert provider.billed.calls == 1


@both_transports
@pytest.mark.parametrize("face", STREAMED)
@pytest.mark.parametrize("fault", CUT)
def test_f13_a_cut_stream_is_an_error(provider: FakeProvider, face: Face, fault: fake.Fault) -> None:
    with make(provider.base_url) as client:
        check_cut(provider, face, client, fault)


@pytest.mark.parametrize("fault", CUT)
def test_f13_catches_a_reader_that_does_not_ask_for_finish_reason(provider: FakeProvider, fault: fake.Fault) -> None:
    must_fail(check_cut, provider, stream, NaiveStreamer(provider.base_url), fault)


@both_transports
@pytest.mark.parametrize("face", STREAMED)
def test_f13_the_text_before_the_cut_is_kept(provider: FakeProvider, face: Face) -> None:
    provider.script(fake.Fault(edit_events=lambda events: events[:3]))
    with make(provider.base_url) as client:
        assert caught(TruncatedStream, face, client).partial == ANSWER


@both_transports
@pytest.mark.parametrize("face", STREAMED)
def test_f13_one_open_sample_of_several_is_a_cut(provider: FakeProvider, face: Face) -> None:
    provider.script(fake.Fault(edit_events=lambda events: [e for e in events if not _finishes(e, 1)]))
    with make(provider.base_url) as client:
        assert "[1]" in str(caught(TruncatedStream, face, client, {**ASK, "n": 3}))


@both_transports
@pytest.mark.parametrize("face", STREAMED)
def test_f13_a_sample_that_never_came_is_a_cut_unless_the_server_said_done(provider: FakeProvider, face: Face) -> None:
    only_first = [fake.Fault(edit_events=lambda events: events[:4]), fake.Fault(edit_events=lambda e: [*e[:4], e[-1]])]
    provider.script(*only_first)
    with make(provider.base_url) as client:
        caught(TruncatedStream, face, client, {**ASK, "n": 2})
        assert face(client, {**ASK, "n": 2}) == ANSWER


def _finishes(event: Any, index: int) -> bool:
    choices = event.get("choices", []) if isinstance(event, dict) else []
    return any(choice["index"] == index and choice["finish_reason"] for choice in choices)


HARMLESS = [
    fake.missing_done(),
    fake.noisy_lines(),
    fake.duplicated_events(),
    fake.split_utf8(),
    fake.Fault(piece=7, eol=b"\r\n"),
    fake.crlf(),
    fake.Fault(eol=b"\r"),
    fake.ok(framing="close"),
    fake.Fault(edit_events=lambda events: [b"\xef\xbb\xbf: with a byte order mark", *events]),
    fake.Fault(edit_events=lambda events: [{"choices": [], "prompt_filter_results": []}, *events]),
    fake.early_close("chunked", share=0.999),  # only the last of [DONE] is missing
    fake.Fault(hang_at=0.999),
]


def check_harmless(provider: FakeProvider, face: Face, client: Any, fault: fake.Fault) -> None:
    provider.script(fault)
    assert face(client) == ANSWER


@both_transports
@pytest.mark.parametrize("face", STREAMED)
@pytest.mark.parametrize("fault", HARMLESS)
def test_f13_noise_is_no_error(provider: FakeProvider, face: Face, fault: fake.Fault) -> None:
    limits = CALM if fault.hang_at is None else replace(CALM, idle=1.0)
    with make(provider.base_url, timeouts=limits) as client:
        check_harmless(provider, face, client, fault)


@pytest.mark.parametrize("fault", [fake.split_utf8(), fake.Fault(piece=7, eol=b"\r\n")])
def test_f13_catches_a_reader_that_decodes_piece_by_piece(provider: FakeProvider, fault: fake.Fault) -> None:
    class PieceByPiece(NaiveStreamer):
        def stream(self, payload: dict[str, Any]) -> Any:
            for chunk in super().stream(payload):
                content = chunk.body["choices"][0]["delta"].get("content") if chunk.body["choices"] else None
                if content:
                    broken = b"".join(bytes([byte]) for byte in content.encode()).decode("ascii", "replace")
                    chunk.body["choices"][0]["delta"]["content"] = broken
                yield chunk

    must_fail(check_harmless, provider, stream, PieceByPiece(provider.base_url), fault)


@both_transports
@pytest.mark.parametrize("face", STREAMED)
def test_f13_an_event_of_several_lines(provider: FakeProvider, face: Face) -> None:
    lines = [b'data: {"choices": [{"index": 0,', b'data:  "delta": {"content": "two lines"},']
    lines += [b'data:  "finish_reason": "stop"}]}', b"", b"data: [DONE]", b""]
    provider.script(fake.Fault(edit_events=lambda events: list(lines)))
    with make(provider.base_url) as client:
        assert face(client) == "two lines"


MALFORMED = [
    fake.non_json_line(),
    fake.Fault(edit_events=lambda events: [*events[:1], b"data: null", b"", *events[1:]]),
    fake.Fault(edit_events=lambda events: [*events[:1], b"Internal Server Error", *events[1:]]),
    fake.Fault(edit_events=lambda events: [{"choices": "none"}, *events]),
    fake.Fault(edit_events=lambda events: [{"choices": [None]}, *events]),
    fake.html_200(),
    fake.json_string_200(),
    fake.truncated_json(),
]


def check_malformed(provider: FakeProvider, face: Face, client: Any, fault: fake.Fault) -> None:
    provider.script(fault)
    error = caught(MalformedReply, face, client)
    assert (error.retryable, error.billed) == (True, "unknown")


@both_transports
@pytest.mark.parametrize("face", STREAMED)
@pytest.mark.parametrize("fault", MALFORMED)
def test_f13_what_is_no_event_stream_is_malformed(provider: FakeProvider, face: Face, fault: fake.Fault) -> None:
    with make(provider.base_url) as client:
        check_malformed(provider, face, client, fault)


@pytest.mark.parametrize("fault", MALFORMED[-3:])
def test_f13_catches_a_reader_that_skips_what_it_does_not_know(provider: FakeProvider, fault: fake.Fault) -> None:
    must_fail(check_malformed, provider, stream, NaiveStreamer(provider.base_url), fault)


REPORTED = [
    (fake.error_event(), ServerFailed),
    (fake.error_event("slow down", type="rate_limit_error"), RateLimited),
    (fake.error_event("overloaded", type="overloaded_error"), ServerFailed),
    (fake.error_event("engine died", type="EngineError", code=500), ServerFailed),
    (fake.error_event("who knows", type="weird"), ProviderError),
    (fake.error_200(), ServerFailed),
    (
        fake.Fault(edit_events=lambda e: [*e[:2], {"object": "error", "message": "old style", "code": 503}]),
        ServerFailed,
    ),
]


@both_transports
@pytest.mark.parametrize("face", STREAMED)
@pytest.mark.parametrize(("fault", "wanted"), REPORTED)
def test_f13_an_error_event_is_a_typed_error_and_may_have_been_billed(
    provider: FakeProvider, face: Face, fault: fake.Fault, wanted: type[ProviderError]
) -> None:
    provider.script(fault)
    with make(provider.base_url) as client:
        error = caught(wanted, face, client)
    assert type(error) is wanted
    assert (error.billed, error.retryable) == ("unknown", True)


def test_f13_catches_a_reader_that_takes_an_error_event_for_a_chunk(provider: FakeProvider) -> None:
    class Tolerant(NaiveStreamer):
        def stream(self, payload: dict[str, Any]) -> Any:
            return (chunk for chunk in super().stream(payload) if "choices" in chunk.body)

    def check(client: Any) -> None:
        provider.script(fake.error_event())
        caught(ServerFailed, stream, client)

    must_fail(check, Tolerant(provider.base_url))


@both_transports
def test_f13_chunks_before_an_error_event_are_handed_out(provider: FakeProvider) -> None:
    provider.script(fake.error_event())
    with make(provider.base_url) as client:
        chunks = client.stream(ASK)
        assert next(chunks).body["choices"]
        assert next(chunks).body["choices"]
        with pytest.raises(ServerFailed):
            next(chunks)
