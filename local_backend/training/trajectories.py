"""Answers to learn from: the base's own, sampled at a recorded temperature, and of those the right ones (rejection sampling).

What is written is what was drawn, as token ids beside the text: encoding a text again may give other tokens than the model chose.
A run is a function of its settings; killed and resumed, it writes the same file.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from local_backend.config import SetupError
from local_backend.generate import Row, generate
from local_backend.loading import end_tokens
from local_backend.tiny.families import FAMILIES
from local_backend.training.data import DataError, seed_of
from local_backend.training.encoding import Encoder
from local_backend.training.evaluation.tasks import Check, Prompt
from local_backend.training.run import interruptible

Fate = Literal["kept", "wrong", "unfinished", "surplus"]


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How to sample.

    Attributes:
        model: the base's name, for the record.
        checker: the checker's name, for the record.
        out: JSONL to write, for `heads train`; beside it lies OUT.progress, which a resumed run goes on from.
        samples: answers a prompt.
        keep: most right answers of one prompt that are kept; None keeps all.
        temperature: of the draw. It decides much of what heads learn from the answers, and 1 is the model itself.
        top_p: of the draw.
        max_tokens: longest answer; an unfinished one is never kept.
        rows: answers generated together.
        seed: of all draws.
        resume: go on after an interruption.
        overwrite: start anew though `out` exists.
    """

    model: str
    checker: str
    out: Path
    samples: int = 4
    keep: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    rows: int = 32
    seed: int = 0
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("samples", "keep", "max_tokens", "rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SetupError(f"{name}={value!r} must be at least 1")
        if not self.temperature > 0:
            raise SetupError(f"temperature={self.temperature!r} must be > 0: greedy answers are all the same")
        if not 0 < self.top_p <= 1:
            raise SetupError(f"top_p={self.top_p!r} must be in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """How far sampling came: prompts done of all, and what became of their answers."""

    done: int
    prompts: int
    fates: Mapping[Fate, int]

    @property
    def finished(self) -> bool:
        """Whether all prompts were answered."""
        return self.done == self.prompts

    def sentence(self) -> str:
        """For reading."""
        count = {name: self.fates.get(name, 0) for name in ("kept", "wrong", "unfinished", "surplus")}
        more = f", {count['surplus']} right but beyond the number to keep" if count["surplus"] else ""
        return (
            f"{self.done} of {self.prompts} prompts: {count['kept']} answers kept, {count['wrong']} refused by the checker, "
            f"{count['unfinished']} unfinished{more}"
        )


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    check: Check,
    config: SampleConfig,
    *,
    report: Callable[[Sampled], None] = lambda _: None,
) -> Sampled:
    """Sample answers and write the right ones; Ctrl-C ends at once and leaves what `resume` goes on from.

    Args:
        model: the base, in eval mode.
        tokenizer: its tokenizer.
        prompts: see `read_prompts` and `embedded_prompts`.
        check: called with a prompt's record and an answer's text.
        config: the run.
        report: called now and then.

    Raises:
        SetupError: the file is there already, was made otherwise, or the checker failed.
    """
    progress = config.out.with_name(config.out.name + ".progress")
    identity = {
        **{name: value for name, value in asdict(config).items() if name not in ("out", "rows", "resume", "overwrite")},
        "prompts": seed_of(*(each.ids for each in prompts)),
    }
    start = _begin(config, progress, identity)
    fates: Counter[Fate] = Counter(start["fates"])
    done, size = int(start["done"]), max(1, config.rows // config.samples)
    end_ids = end_tokens(model, tokenizer)
    with interruptible() as interrupted, config.out.open("r+b") as file:
        # Lines of a batch that a kill interrupted are written again.
        file.truncate(start["bytes"])
        file.seek(0, os.SEEK_END)
        while done < len(prompts):
            places = range(done, min(done + size, len(prompts)))
            answers = _answers(model, [prompts[place] for place in places], places, config, end_ids, interrupted.is_set)
            if interrupted.is_set():
                break
            for place, drawn in zip(places, answers, strict=True):
                for fate, line in _judged(tokenizer, prompts[place], place, drawn, check, config, end_ids):
                    fates[fate] += 1
                    file.write(line)
            file.flush()
            os.fsync(file.fileno())
            done = places.stop
            _write(progress, {"of": identity, "done": done, "bytes": file.tell(), "fates": dict(fates)})
            report(Sampled(done=done, prompts=len(prompts), fates=fates))
    return Sampled(done=done, prompts=len(prompts), fates=fates)


def _begin(config: SampleConfig, progress: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    if progress.exists() and config.resume and not config.overwrite:
        start: dict[str, Any] = json.loads(progress.read_text(encoding="utf-8"))
        changed = [name for name, value in identity.items() if start["of"].get(name) != value]
        if changed:
            told = ", ".join(f"{name} was {start['of'].get(name)!r} and is {identity[name]!r}" for name in changed)
            raise SetupError(
                f"{str(config.out)!r} was begun otherwise ({told}): give the same settings, or overwrite it"
            )
        return start
    if config.out.exists() and not (config.overwrite or (config.resume and config.out.stat().st_size == 0)):
        raise SetupError(f"{str(config.out)!r} is there already: resume it, overwrite it, or name another file")
    config.out.parent.mkdir(parents=True, exist_ok=True)
    start = {"of": dict(identity), "done": 0, "bytes": 0, "fates": {}}
    _write(progress, start)
    config.out.touch()
    return start


def _write(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    os.replace(partial, path)


def _answers(
    model: Any,
    prompts: Sequence[Prompt],
    places: Sequence[int],
    config: SampleConfig,
    end_ids: frozenset[int],
    stopped: Callable[[], bool],
) -> list[list[list[int]]]:
    """Token ids of `samples` answers to each prompt."""
    rows = [
        Row(
            prompt_ids=prompt.ids,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            heads=False,
            seed=seed_of(config.seed, place, number),
        )
        for place, prompt in zip(places, prompts, strict=True)
        for number in range(config.samples)
    ]
    drawn: list[list[int]] = [[] for _ in rows]
    for step in generate(model, rows, eos_ids=end_ids, should_stop=lambda _: stopped()):
        for token in step:
            drawn[token.row].append(token.id)
    return [drawn[first : first + config.samples] for first in range(0, len(drawn), config.samples)]


def _judged(
    tokenizer: Any,
    prompt: Prompt,
    place: int,
    answers: Sequence[Sequence[int]],
    check: Check,
    config: SampleConfig,
    end_ids: frozenset[int],
) -> Iterator[tuple[Fate, bytes]]:
    """What becomes of each answer, and its line, which is empty unless it is kept."""
    kept = 0
    for number, ids in enumerate(answers):
        if ids[-1] not in end_ids:
            yield "unfinished", b""
            continue
        text = tokenizer.decode(ids[:-1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        try:
            right = check(prompt.record, text)
        except Exception as error:  # Somebody else's code; whatever it raises, this is what to tell of it.
            raise SetupError(
                f"the checker {config.checker!r} failed on an answer to prompt {place + 1} ({type(error).__name__}: {error})"
            ) from error
        if not right:
            yield "wrong", b""
        elif config.keep is not None and kept == config.keep:
            yield "surplus", b""
        else:
            kept += 1
            yield "kept", _line(tokenizer, prompt, place, number, ids, text, config)


def _line(
    tokenizer: Any, prompt: Prompt, place: int, number: int, ids: Sequence[int], text: str, config: SampleConfig
) -> bytes:
    names = ("model", "checker", "temperature", "top_p", "max_tokens", "seed")
    record = {
        "prompt": tokenizer.decode(list(prompt.ids), clean_up_tokenization_spaces=False),
        "completion": text,
        "inputs": {"p_ids": list(prompt.ids), "r_ids": list(ids)},
        "sampling": {**{name: getattr(config, name) for name in names}, "prompt": place, "sample": number},
    }
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


def read_prompts(path: Path, tokenizer: Any) -> list[Prompt]:
    """Prompts of a JSONL file: {"prompt": text as the model sees it} or {"messages": [...]}; the whole line is the record.

    Raises:
        DataError: lines that are no such record, or none at all.
    """
    encoder, prompts = Encoder(tokenizer, frozenset()), []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            asked = record["messages"] if "messages" in record else record["prompt"]
            prompts.append(Prompt(ids=tuple(encoder.prompt(asked)), record=record))
        except (ValueError, TypeError, KeyError, TemplateError) as error:
            raise DataError(
                f'{str(path)!r}, line {number}: {error!r}; a line is {{"prompt": "..."}} or {{"messages": [...]}}'
            ) from error
    if not prompts:
        raise DataError(f"{str(path)!r} holds no prompts")
    return prompts


def embedded_prompts(tokenizer: Any, *, count: int, seed: int = 0) -> tuple[list[Prompt], Check]:
    """Training prompts of the embedded model's six families, `count` each, one family after another in turn, and their checker."""
    encoder = Encoder(tokenizer, frozenset())
    prompts = []
    streams = {name: islice(family.prompts("train", seed=seed), count) for name, family in FAMILIES.items()}
    for _ in range(count):
        for name, stream in streams.items():
            text = next(stream)
            ids = tuple(encoder.prompt([{"role": "user", "content": text}]))
            prompts.append(Prompt(ids=ids, record={"family": name, "prompt": text}))
    return prompts, lambda record, answer: FAMILIES[record["family"]].check(record["prompt"], answer)


def load_checker(name: str) -> Check:
    """The function that "module:function" names; modules of the working directory are found.

    Raises:
        SetupError: there is no such function.
    """
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SetupError(
            f"no checker {name!r} ({error}): give module:function, a function of a record and an answer that says if it is right"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(found):
        raise SetupError(f"{name!r} is no function but a {type(found).__name__}")
    checker: Check = found
    return checker
