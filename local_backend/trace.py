"""What was decided for each token of a text, and how sure the model was: for people, reports and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import StoppingCriteria

from local_backend.model import AutoDecoModelForCausalLM, AutoDecoOutput


@dataclass(frozen=True, kw_only=True)
class RowTrace:
    """One text, one entry a token.

    Attributes:
        token: what was chosen.
        temperature: T it was drawn with, the request multiplied in.
        top_p: P it was drawn with, likewise.
        entropy: of the base's own distribution (before T and P), in nats.
        probability: of the token in the distribution it was drawn from (after T and P).
    """

    token: list[int] = field(default_factory=list)
    temperature: list[float] = field(default_factory=list)
    top_p: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token)


class _Step(NamedTuple):
    """The tokens of one call, [B, n] each, on whatever device they were made."""

    token: Tensor
    temperature: Tensor
    top_p: Tensor
    entropy: Tensor
    probability: Tensor


class Trace(StoppingCriteria):
    """Records one call of `generate`; it never stops it.

        with Trace(model) as trace:
            model.generate(**inputs, stopping_criteria=[trace])
        trace.rows[0].temperature

    Works with sampling, greedy and assisted decoding, any cache and any number of returned sequences. What the caller adds to
    the model's own distribution (logits processors, penalties) is not in `probability`.

    Args:
        model: the model that will generate.
        eos_ids: tokens that end a row; default are those of its generation config.
    """

    def __init__(self, model: AutoDecoModelForCausalLM, *, eos_ids: frozenset[int] | None = None) -> None:
        configured = model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        self._eos_ids = frozenset(token for token in listed if token is not None) if eos_ids is None else eos_ids
        self._model = model
        self._steps: list[_Step] = []
        self._last: AutoDecoOutput | None = None
        self._processed = 0

    def __enter__(self) -> Self:
        self._before, self._model.report_entropy = self._model.report_entropy, True
        self._hook = self._model.register_forward_hook(self._note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self._model.report_entropy = self._before
        self._last = None

    def _note(self, _: Any, __: Any, arguments: dict[str, Any], output: AutoDecoOutput) -> None:
        cache = output.past_key_values
        self._last = output
        self._processed = arguments["input_ids"].shape[1] if cache is None else cache.get_seq_length()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Record what was chosen since the last call; stops no row, [B]."""
        out = self._last
        if out is None:
            raise RuntimeError("nothing to record: call generate inside `with Trace(model) as trace`, on that model")
        assert out.logits is not None
        assert out.temperature is not None
        assert out.top_p is not None
        assert out.entropy is not None
        kept = out.logits.shape[1]
        # Assisted decoding looks at several positions at once and takes as many of the first of them as it likes.
        count = 1 if kept == 1 else input_ids.shape[1] - (self._processed - kept + 1)
        token = input_ids[:, -count:]
        log_p = out.logits[:, :count].float().log_softmax(dim=-1)
        chosen = log_p.gather(-1, token.to(log_p.device).unsqueeze(-1)).squeeze(-1).exp()
        self._steps.append(
            _Step(token, out.temperature[:, :count], out.top_p[:, :count], out.entropy[:, :count], chosen)
        )
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    @property
    def rows(self) -> list[RowTrace]:
        """Each returned sequence in order, without its prompt and without the padding after its end."""
        if not self._steps:
            return []
        columns = [
            torch.cat([part.cpu() for part in parts], dim=1).tolist() for parts in zip(*self._steps, strict=True)
        ]
        return [self._row(*row) for row in zip(*columns, strict=True)]

    def _row(self, tokens: list[int], *columns: list[float]) -> RowTrace:
        end = next((at + 1 for at, token in enumerate(tokens) if token in self._eos_ids), len(tokens))
        return RowTrace(
            token=tokens[:end], **{name: column[:end] for name, column in zip(_COLUMNS, columns, strict=True)}
        )

    def to_dict(self) -> dict[str, Any]:
        """`{"rows": [{"token": [...], "temperature": [...], ...}, ...]}`."""
        return {"rows": [asdict(row) for row in self.rows]}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())


_COLUMNS = _Step._fields[1:]
