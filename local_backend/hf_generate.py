"""How `generate` of transformers runs a model whose logits are already regulated: what the base knows, the base answers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.generation import GenerationMode

REQUEST = ("request_temperature", "request_top_p")
"""What a caller may ask of the heads, one number or one for each row."""
NEUTRAL = {
    "do_sample": True,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""The settings of `generate` under which what is drawn is what the heads decided."""


def without_sampling_settings(config: GenerationConfig | None) -> GenerationConfig:
    """A copy with which what is drawn is what the heads decided; penalties and lengths stay as they are."""
    config = GenerationConfig() if config is None else copy.deepcopy(config)
    for name, value in NEUTRAL.items():
        setattr(config, name, value)
    return config


class RegulatedGenerationMixin(GenerationMixin):
    """`generate` for a wrapper of `llm` whose forward pass takes `request_temperature` and `request_top_p`.

    Both may be given to `generate`, as one number or one for each row; its `temperature` and `top_p` mean the same, so they
    multiply what the heads decide, and temperature 0 is greedy. Sampling, greedy and assisted decoding work; beam search is
    refused, since probabilities under a temperature of every token's own do not compare.
    """

    llm: PreTrainedModel
    generation_config: GenerationConfig
    _plain: bool
    _takes_positions: bool

    @property
    def _supported_generation_modes(self) -> list[GenerationMode] | None:
        if self._plain:
            return None
        return [GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH, GenerationMode.ASSISTED_GENERATION]

    @property
    def _is_stateful(self) -> bool:
        return bool(self.llm._is_stateful)

    def _prepare_generation_config(self, *args: Any, **kwargs: Any) -> tuple[GenerationConfig, dict[str, Any]]:
        config, arguments = super()._prepare_generation_config(*args, **kwargs)
        for name, request in zip(("temperature", "top_p"), REQUEST, strict=True):
            asked = _numbers(arguments.get(request), request)
            value = _numbers(getattr(config, name), name)
            setattr(config, name, 1.0)
            arguments[request] = value if asked is None else asked if value is None else asked * value
        return config, arguments

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        self.llm._validate_model_kwargs({name: value for name, value in model_kwargs.items() if name not in REQUEST})

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The base's inputs, and what was requested."""
        request = {name: kwargs.pop(name, None) for name in REQUEST}
        inputs = self.llm.prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if not self._takes_positions:
            inputs.pop("position_ids", None)
        return {**inputs, **request}

    def _get_candidate_generator(self, **kwargs: Any) -> Any:
        # What is asked of these heads is nothing to the assistant, which may have none; whatever it proposes, what is kept
        # follows the regulated distribution.
        asked = {name: value for name, value in kwargs.pop("model_kwargs").items() if name not in REQUEST}
        return super()._get_candidate_generator(**kwargs, model_kwargs=asked)

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> None:
        self.llm._prepare_cache_for_generation(*args, **kwargs)

    def _update_model_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.llm._update_model_kwargs_for_generation(*args, **kwargs)


def _numbers(value: Any, name: str) -> Any:
    """One number, or a tensor [B] of one for each row; None if nothing or 1 is requested.

    Raises:
        ValueError: a number is negative or not finite.
    """
    if value is None or (isinstance(value, int | float) and value == 1):
        return None
    numbers = torch.as_tensor(value, dtype=torch.float32)
    if not bool((torch.isfinite(numbers) & (numbers >= 0)).all()):
        raise ValueError(f"{name}={value!r} must be finite and >= 0")
    # Without dimension it would be repeated as if it had one when several sequences are asked for.
    return numbers if numbers.ndim else numbers.item()
