"""The server under real life: clients that leave, full queues, a model that fails, keys, shutdown."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from local_backend.__main__ import app as cli
from local_backend.config import ServerSettings, SetupError
from local_backend.loading import load
from local_backend.tiny import weights_path
from tests.backend.small_server import LETHAL, POISON, Served, running, serving

HELLO = [{"role": "user", "content": "Hello"}]
GREEDY = {"model": "small", "messages": HELLO, "temperature": 0, "max_tokens": 20}
LONG = {"model": "small", "messages": HELLO, "seed": 1, "max_tokens": 480, "n": 4}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the server never got there"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def gated() -> Iterator[Served]:
    with serving(max_queue=2, max_request_tokens=4 * 480) as served:
        yield served


@pytest.fixture
def closed(gated: Served) -> Iterator[Served]:
    """The server with its model stopped before the next step."""
    wait_for(lambda: gated.worker.running == 0)
    gated.model.gate.clear()
    yield gated
    gated.model.gate.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def open_request(served: Served, body: dict[str, Any]) -> socket.socket:
    """Send a request on a bare socket, so that the test alone decides when the client leaves."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(served.address, timeout=20)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_model(closed: Served, pool: ThreadPoolExecutor, stream: bool) -> None:
    before = closed.totals()
    leaver = open_request(closed, {**LONG, "stream": stream})
    wait_for(lambda: closed.totals()["requests_running"])
    if stream:
        closed.model.gate.set()
        while b'"content":"' not in leaver.recv(65536):
            pass
        closed.model.gate.clear()
    neighbour = pool.submit(closed.post, **GREEDY)
    wait_for(lambda: closed.totals()["requests_waiting"])
    leaver.close()
    wait_for(lambda: not closed.totals()["requests_running"])
    closed.model.gate.set()
    reply = neighbour.result(20).json()
    spent = closed.totals()["completion_tokens_total"] - before["completion_tokens_total"]
    assert spent < 4 * 480, "the generation ran on with nobody listening"
    if not stream:
        assert spent == 4 + 20, "it ended at its next token"
    assert reply["choices"][0]["message"]["content"] == content(closed.post(**GREEDY))


def content(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def test_a_client_that_leaves_in_mid_request_is_no_error(gated: Served, caplog: pytest.LogCaptureFixture) -> None:
    connection = socket.create_connection(gated.address, timeout=20)
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert gated.post(**GREEDY).status_code == 200
    connection.close()
    assert gated.post(**GREEDY).status_code == 200
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


def test_a_client_that_leaves_the_queue_was_never_served(closed: Served, pool: ThreadPoolExecutor) -> None:
    before = closed.totals()
    first = pool.submit(closed.post, **GREEDY)
    wait_for(lambda: closed.totals()["requests_running"])
    leaver = open_request(closed, LONG)
    wait_for(lambda: closed.totals()["requests_waiting"])
    leaver.close()
    wait_for(lambda: not closed.totals()["requests_waiting"])
    closed.model.gate.set()
    assert first.result(20).status_code == 200
    assert closed.totals()["requests_total"] == before["requests_total"] + 1


def test_a_full_queue_says_so_and_loses_nobody(closed: Served, pool: ThreadPoolExecutor) -> None:
    inside: list[Future[httpx.Response]] = [pool.submit(closed.post, **GREEDY)]
    wait_for(lambda: closed.totals()["requests_running"])
    inside += [pool.submit(closed.post, **GREEDY) for _ in range(2)]
    wait_for(lambda: closed.totals()["requests_waiting"] == 2)
    refused = closed.post(**GREEDY, stream=True)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    with pytest.raises(openai.RateLimitError), closed.client() as client:
        client.chat.completions.create(**GREEDY)  # type: ignore[call-overload]
    closed.model.gate.set()
    assert len({content(reply.result(20)) for reply in inside}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_request_fails_alone(gated: Served, stream: bool) -> None:
    poisoned = {**GREEDY, "messages": [{"role": "user", "content": POISON}], "stream": stream}
    reply = gated.post(**poisoned)
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
    assert reply.json()["error"]["code"] == "generation_failed"
    assert httpx.get(f"{gated.url}/health").json() == {"status": "ready"}
    assert gated.post(**GREEDY).status_code == 200


def test_a_stream_that_breaks_does_not_look_finished(closed: Served, pool: ThreadPoolExecutor) -> None:
    closed.model.gate.set()
    closed.model.fail_at = closed.model.steps + 5
    reply = closed.post(**{**GREEDY, "stream": True})
    assert reply.status_code == 200
    *pieces, last = reply.text.strip().split("\n\n")
    assert len(pieces) > 1
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "generation_failed"
    assert "[DONE]" not in reply.text
    assert '"finish_reason":"' not in reply.text
    closed.model.fail_at = closed.model.steps + 5
    with pytest.raises(openai.APIError, match="RuntimeError in the model"), closed.client() as client:
        list(client.chat.completions.create(**GREEDY, stream=True))  # type: ignore[call-overload]


@pytest.mark.parametrize("n", [1, 4])
def test_one_request_may_not_own_the_model_for_hours(gated: Served, n: int) -> None:
    with serving(max_request_tokens=100) as small:
        body = {**GREEDY, "n": n, "max_tokens": 100 // n + 1}
        error = small.post(**body).json()["error"]
        assert (error["param"], error["code"]) == ("n" if n > 1 else "max_tokens", "invalid_value")
        usage = small.post(**{**body, "max_tokens": None}).json()["usage"]
        assert usage["completion_tokens"] <= 100


def test_health_and_requests_when_the_thread_dies(pool: ThreadPoolExecutor) -> None:
    with serving() as served:
        served.model.gate.clear()
        lethal = {**GREEDY, "messages": [{"role": "user", "content": LETHAL}]}
        replies = [pool.submit(served.post, **lethal)]
        wait_for(lambda: served.totals()["requests_running"])
        replies.append(pool.submit(served.post, **GREEDY))
        wait_for(lambda: served.totals()["requests_waiting"])
        served.model.gate.set()
        assert [reply.result(20).status_code for reply in replies] == [503, 503]
        health = httpx.get(f"{served.url}/health")
        assert (health.status_code, health.json()) == (503, {"status": "stopped"})
        refused = served.post(**GREEDY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "worker_stopped")


def test_health_while_the_model_warms_up() -> None:
    with serving(gate_open=False) as served:
        health = httpx.get(f"{served.url}/health")
        assert (health.status_code, health.json()) == (503, {"status": "loading"})
        served.model.gate.set()
        wait_for(lambda: httpx.get(f"{served.url}/health").status_code == 200)


def test_the_key_guards_the_api() -> None:
    with serving(api_key="sesame") as served:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sesame"}):
            for reply in (
                httpx.get(f"{served.url}/v1/models", headers=headers),
                httpx.post(f"{served.url}/v1/chat/completions", json=GREEDY, headers=headers),
            ):
                assert reply.status_code == 401
                assert reply.json()["error"]["code"] == "invalid_api_key"
                assert "sesame" not in reply.text
        with pytest.raises(openai.AuthenticationError), served.client(api_key="wrong") as client:
            client.models.list()
        with served.client(api_key="sesame") as client:
            assert client.chat.completions.create(**GREEDY).usage.completion_tokens == 20  # type: ignore[call-overload]
        assert httpx.get(f"{served.url}/health").status_code == 200


def test_the_key_is_not_in_the_settings_repr() -> None:
    assert "sesame" not in repr(ServerSettings(api_key="sesame"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"port": 70000}, "70000"),
        ({"model_name": ""}, "model_name"),
        ({"max_queue": 0}, "max_queue=0"),
        ({"api_key": " "}, "api_key"),
        ({"max_model_len": -1}, "max_model_len=-1"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SetupError, match=named):
        ServerSettings(**settings)


def test_sigterm_finishes_the_answers_under_way(model_folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "local_backend",
        "serve",
        str(model_folder),
        "--port",
        "0",
        "--threads",
        "1",
        "--drain-seconds",
        "60",
    ]
    environment = {**os.environ, "SELFREG_SERVER_API_KEY": "sesame", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith(f"selfreg serving {model_folder.name} on http://127.0.0.1:"), process.stderr.read()
        url = line.split()[-1]
        body = {**LONG, "model": "default", "stream": True, "max_tokens": 200}
        with httpx.stream(
            "POST", f"{url}/chat/completions", json=body, headers={"authorization": "Bearer sesame"}, timeout=30
        ) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first.startswith("data: ")
        assert rest[-1] == "data: [DONE]"
        assert sum('"finish_reason":"' in line for line in rest) == 4
        output, errors = process.communicate(timeout=30)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in errors
        assert "sesame" not in output + errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./no-such-folder"], "'./no-such-folder' is no folder"),
        (["no-such-folder/"], "'no-such-folder/' is no folder"),
        (["{folder}", "--device", "nonsense"], "on nonsense"),
        (["{folder}", "--port", "70000"], "port=70000 is no TCP port"),
        (["{folder}", "--port", "{taken}"], "choose another port"),
        (["{folder}", "--max-model-len", "4096"], "max_model_len=4096 is longer than the model's own 512"),
        (["{empty}"], "cannot load"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    model_folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"folder": model_folder, "empty": tmp_path, "taken": taken.getsockname()[1]}
        result = CliRunner().invoke(cli, ["serve", *(word.format(**known) for word in arguments)])
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert message in result.output


def test_the_help_teaches() -> None:
    result = CliRunner().invoke(cli, ["serve", "--help"])
    assert result.exit_code == 0
    for word in ("tiny", "curl", "/health", "SELFREG_SERVER_API_KEY"):
        assert word in result.output


@pytest.mark.skipif(not weights_path().is_dir(), reason="the embedded model has not been built")
def test_the_embedded_model_answers() -> None:
    model, tokenizer = load("tiny", device="cpu")
    with running(model, tokenizer, model_name="tiny") as served, served.client() as client:
        reply = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], temperature=0, max_tokens=100
        )
        assert reply.usage is not None
        assert reply.usage.completion_tokens == served.totals()["completion_tokens_total"]
        assert client.models.retrieve("tiny").selfreg["max_model_len"] > 100  # type: ignore[attr-defined]


def test_an_idle_connection_outlives_its_clients(gated: Served) -> None:
    """Clients drop idle connections after 5 seconds: were the server as quick, it would close some just as a request comes."""
    url = httpx.URL(gated.url)
    with contextlib.closing(http.client.HTTPConnection(url.host, url.port, timeout=20)) as connection:
        for pause in (0, 6):
            time.sleep(pause)
            connection.request("GET", "/health")
            assert json.loads(connection.getresponse().read()) == {"status": "ready"}
