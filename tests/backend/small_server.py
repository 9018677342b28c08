"""A small random model behind a real server on a loopback port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import torch
import uvicorn
from openai import OpenAI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from local_backend.config import ServerSettings
from local_backend.server import KEEP_ALIVE, create_app
from local_backend.worker import Worker

TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'refuse me' %}{{ raise_exception('no such talk') }}{% endif %}"
    "{{ '<' + m.role + '>' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
POISON = "poison"
LETHAL = "lethal"


class GatedLlama(LlamaForCausalLM):  # type: ignore[misc]
    """A real model with a gate: closed, it waits before every step; poisoned prompts make it raise."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.gate = threading.Event()
        self.gate.set()
        self.steps = 0
        self.fail_at = -1

    def forward(self, input_ids: Any, **kwargs: Any) -> Any:
        self.steps += 1
        assert self.gate.wait(30), "a test left the gate closed"
        prompt = set(input_ids.flatten().tolist()) if input_ids.shape[1] > 1 else set()
        if self.config.poison_id in prompt or self.steps == self.fail_at:
            raise RuntimeError("poisoned")
        if self.config.lethal_id in prompt:
            raise SystemExit("lethal")
        return super().forward(input_ids=input_ids, **kwargs)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with some merges and with characters that need several tokens."""
    text = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    multibyte = set().union(*map(_byte_symbols, "é€😀"))
    merges = [("a", "b"), ("ab", "c"), ("Ġ", "t"), ("Ġt", "h"), ("o", "n"), ("s", "t"), ("c", "d")]
    symbols = ["<end>", POISON, LETHAL, *text, *sorted(multibyte - set(text)), *(a + b for a, b in merges)]
    bpe = models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=merges)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", POISON, LETHAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", chat_template=TEMPLATE)


def _byte_symbols(word: str) -> set[str]:
    """The characters byte-level BPE writes the word's bytes as."""
    [(symbols, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(word)
    return set(symbols)


def make_model(tokenizer: PreTrainedTokenizerFast) -> GatedLlama:
    """Two layers of random weights, wide enough for peaked distributions."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        poison_id=tokenizer.convert_tokens_to_ids(POISON),
        lethal_id=tokenizer.convert_tokens_to_ids(LETHAL),
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return GatedLlama(config).eval()


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server and the model inside it."""

    url: str
    model: GatedLlama
    worker: Worker

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def client(self, **kwargs: Any) -> OpenAI:
        """The openai package, pointed here; retries off, so that every status is seen."""
        return OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 30, **kwargs})

    def post(self, **body: Any) -> httpx.Response:
        """One raw chat request."""
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=30)

    def totals(self) -> dict[str, float]:
        """The counters of /metrics, by name without the prefix."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        samples = (line.split() for line in lines if not line.startswith("#"))
        return {name.removeprefix("selfreg_"): float(value) for name, value in samples}


@contextmanager
def serving(*, gate_open: bool = True, **settings: Any) -> Iterator[Served]:
    """The small model in a server; with the gate closed it never warms up."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    if not gate_open:
        model.gate.clear()
    with running(model, tokenizer, **{"model_name": "small", **settings}) as served:
        try:
            if gate_open:
                assert served.worker.started.wait(30)
            yield served
        finally:
            model.gate.set()


@contextmanager
def running(model: Any, tokenizer: Any, **settings: Any) -> Iterator[Served]:
    """A server in a thread, on a port of its own."""
    app = create_app(model, tokenizer, ServerSettings(**settings))
    # log_config=None: uvicorn's messages reach pytest.
    config = uvicorn.Config(
        app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=5, timeout_keep_alive=KEEP_ALIVE
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(url=f"http://127.0.0.1:{port}", model=model, worker=app.state.worker)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
