"""Two pretrained story models: temperature heads train on real stories, and give held-out stories at least the likelihood of the best static one.

The static temperature is chosen on validation stories, heads and static one are compared on test stories, story by story.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from local_backend.checkpoint.load import load_heads
from local_backend.heads import Heads
from local_backend.training import LossConfig, TrainConfig, train

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"
CORPUS = DATA / "corpora" / "tinystories_700.json"
MODELS = ("stories260k", "babyllama-char105")
PLAIN = LossConfig(easy_token_drop=0.0, dft_exponent=0.0)
"""Cross entropy and nothing else, which the true distribution minimises; a nucleus has no likelihood, so there is no top-p head."""
TEMPERATURES = tuple(0.8 + 0.05 * step for step in range(15))

pytestmark = pytest.mark.skipif(
    not CORPUS.is_file(), reason=f"{DATA} is absent: the story models and stories lie there"
)

Split = Literal["train", "validation", "test"]


def split_of(story: str) -> Split:
    tenth = hashlib.blake2b(story.encode(), digest_size=4).digest()[0] % 10
    return "test" if tenth < 2 else "validation" if tenth == 2 else "train"


def stories(split: Split, count: int | None = None) -> list[str]:
    return [story for story in json.loads(CORPUS.read_text()) if split_of(story) == split][:count]


def windows(ids: Sequence[int], context: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and completions that cover a text, every token supervised once and, but for the first ones, behind half a context."""
    yield list(ids[:1]), list(ids[1:context])
    half = context // 2
    for start in range(context, len(ids), half):
        yield list(ids[start - half : start]), list(ids[start : start + half])


@dataclass(frozen=True, kw_only=True)
class Storyteller:
    """A base and its tokenizer."""

    path: Path
    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, name: str) -> Storyteller:
        path = DATA / "models" / name
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        return cls(path=path, model=model, tokenizer=AutoTokenizer.from_pretrained(path))

    def windows(self, story: str) -> list[tuple[list[int], list[int]]]:
        ids = self.tokenizer(story, add_special_tokens=False, verbose=False)["input_ids"]
        return list(windows([self.tokenizer.bos_token_id, *ids], self.model.config.max_position_embeddings))

    def write(self, path: Path, texts: Sequence[str]) -> Path:
        records = [
            {"inputs": {"p_ids": prompt, "r_ids": answer}} for text in texts for prompt, answer in self.windows(text)
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    @torch.no_grad()
    def surprise(self, story: str, heads: Heads) -> tuple[list[float], int]:
        """Nats of a story under the heads, under each of TEMPERATURES, and how many tokens they are of."""
        sums, tokens = torch.zeros(1 + len(TEMPERATURES), dtype=torch.float64), 0
        for prompt, answer in self.windows(story):
            entered: list[Tensor] = []
            hook = self.model.lm_head.register_forward_pre_hook(
                lambda _, given, entered=entered: entered.append(given[0])
            )
            logits = self.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
            hook.remove()
            own = heads(entered[0][0, len(prompt) - 1 : -1], logits).temperature.unsqueeze(1)
            for place, heat in enumerate([own, *TEMPERATURES]):
                sums[place] += cross_entropy(logits / heat, torch.tensor(answer), reduction="sum").double()
            tokens += len(answer)
        return sums.tolist(), tokens


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Nats a token of test stories; `gain` is static minus heads, with its 95 % interval over stories."""

    heads: float
    static: float
    temperature: float
    gain: float
    low: float
    high: float


def compare(teller: Storyteller, heads: Heads, validation: Sequence[str], test: Sequence[str]) -> Gain:
    """Heads beside the static temperature that is best on the validation stories."""
    of_validation = torch.tensor([teller.surprise(story, heads)[0] for story in validation])
    best = int(of_validation[:, 1:].sum(dim=0).argmin())
    sums, tokens = zip(*(teller.surprise(story, heads) for story in test), strict=True)
    pairs = [(each[1 + best] - each[0], count) for each, count in zip(sums, tokens, strict=True)]
    dice = random.Random(0)

    def drawn() -> float:
        those = dice.choices(pairs, k=len(pairs))
        return sum(gap for gap, _ in those) / sum(count for _, count in those)

    draws = sorted(drawn() for _ in range(2000))
    return Gain(
        heads=sum(each[0] for each in sums) / sum(tokens),
        static=sum(each[1 + best] for each in sums) / sum(tokens),
        temperature=TEMPERATURES[best],
        gain=sum(gap for gap, _ in pairs) / sum(tokens),
        low=draws[50],
        high=draws[1950],
    )


def trained(teller: Storyteller, out: Path, texts: Sequence[str], *, steps: int, seed: int = 0) -> Heads:
    config = TrainConfig(
        model=str(teller.path),
        data=teller.write(out.with_suffix(".jsonl"), texts),
        out=out,
        validation_fraction=0,
        loss=PLAIN,
        which="temperature",
        learning_rate=3e-3,
        batch_size=8,
        steps=steps,
        data_temperature=1.0,
        seed=seed,
        device="cpu",
    )
    result = train(config, base=teller.model, tokenizer=teller.tokenizer)
    assert result.finished
    return load_heads(out)[0]


@pytest.mark.parametrize("name", MODELS)
def test_heads_give_held_out_stories_no_less_likelihood_than_the_best_static_temperature(
    name: str, tmp_path: Path
) -> None:
    teller = Storyteller.load(name)
    heads = trained(teller, tmp_path / "heads", stories("train", 60), steps=100)
    found = compare(teller, heads, stories("validation", 15), stories("test", 30))
    assert found.heads < found.static, found


def test_windows_supervise_every_token_once_and_show_what_stood_before() -> None:
    ids = list(range(1000))
    cut = list(windows(ids, 64))
    assert [token for _, answer in cut for token in answer] == ids[1:]
    assert all(len(prompt) + len(answer) <= 64 for prompt, answer in cut)
    assert all(prompt == list(range(answer[0] - len(prompt), answer[0])) for prompt, answer in cut)


def test_stories_are_split_by_their_text() -> None:
    parts = [set(stories(split)) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert all(len(part) >= 50 for part in parts)
