"""Any Hugging Face causal LM with AutoDeco heads: its logits come out scaled by T and cut to the nucleus P of every token.

Whoever samples from these logits at temperature 1, top_p 1 decodes AutoDeco (arXiv 2510.26697) without knowing it. One run of
the base per token and one pass of its output embedding; nothing of the base is copied or changed. Importing this module
registers the model with AutoConfig and AutoModelForCausalLM.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from local_backend.autodeco_config import AutoDecoConfig
from local_backend.heads import Decision, Heads
from local_backend.hf_generate import RegulatedGenerationMixin, without_sampling_settings
from local_backend.regulate import combine, contain, regulated
from local_backend.sampling import entropy


@dataclass
class AutoDecoOutput(CausalLMOutputWithPast):
    """A causal LM's output and what was decided for each kept position.

    Attributes:
        logits: [B, K, V]; regulated in float32, or with regulate=False the base's own.
        temperature: float32 [B, K]; combined with the request, or with regulate=False the head's own.
        top_p: float32 [B, K]; likewise.
        entropy: float32 [B, K], of the base's own distribution in nats, if the model reports it.
    """

    temperature: Tensor | None = None
    top_p: Tensor | None = None
    entropy: Tensor | None = None


class AutoDecoModelForCausalLM(RegulatedGenerationMixin, PreTrainedModel):
    """A causal LM and its heads; make one with `attach`, or load one with `from_pretrained`.

    Not for several threads at once: a forward pass notes the hidden state on the model.

    Attributes:
        llm: the base.
        heads: both heads; `temp_head` and `top_p_head` are the same modules under their published names.
        report_entropy: whether outputs carry the entropy, which takes a pass over the vocabulary.
    """

    config_class = AutoDecoConfig
    base_model_prefix = "llm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The base decides what it supports; the wrapper has no attention of its own.
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def __init__(self, config: AutoDecoConfig, llm: PreTrainedModel | None = None, heads: Heads | None = None) -> None:
        super().__init__(config)
        self.llm = AutoModelForCausalLM.from_config(config.base_config) if llm is None else llm
        self.config.base_config = self.llm.config
        heads = Heads(config.heads_config(output_width(self.llm))) if heads is None else heads
        self.temp_head, self.top_p_head = heads.temp_head, heads.top_p_head
        # Past nn.Module's registry: the heads' parameters have one name each, the published one.
        object.__setattr__(self, "heads", heads)
        # The base's choice, for what asks the wrapper; its own would be transformers' default.
        self.config._attn_implementation_internal = self.llm.config._attn_implementation
        self.report_entropy = False
        self._caught: list[Tensor] | None = None
        self._contained: Tensor | int = 0
        self._plain = False
        arguments = inspect.signature(self.llm.forward).parameters
        self._keeps_logits, self._takes_positions = ("logits_to_keep" in arguments, "position_ids" in arguments)
        self._watch()
        self.generation_config = without_sampling_settings(self.llm.generation_config)
        self.post_init()

    @classmethod
    def attach(cls, base: PreTrainedModel, heads: Heads, *, base_name: str | None = None) -> Self:
        """Put heads on a base, which stays as it is and may be used on its own.

        Args:
            base: any causal LM of transformers; its device, dtype and device map are kept.
            heads: moved to where the base computes its logits.
            base_name: where the base came from, for the checkpoint; default is what it was loaded from.

        Raises:
            ValueError: the base has no output embedding or does not call it once a pass, or the heads are for another width.
        """
        hidden, logits = _probe(base)
        if hidden.shape[-1] != heads.config.hidden_size:
            raise ValueError(
                f"these heads are for a hidden size of {heads.config.hidden_size}, but {type(base).__name__} hands "
                f"{hidden.shape[-1]} to its output embedding: they belong to another base"
            )
        config = AutoDecoConfig.of(base.config, heads.config, base_model_name_or_path=base_name)
        return cls(config, base, heads.to(logits.device)).train(base.training)

    @classmethod
    def from_pretrained(cls, source: Any, *args: Any, config: AutoDecoConfig | None = None, **options: Any) -> Self:
        """Load heads with their base, or both from a merged checkpoint; AutoModelForCausalLM comes here too.

        Args:
            source, options: as for `local_backend.checkpoint.load`.
            args: none.
            config: what AutoModelForCausalLM has read, with its options in it; else it is read here.
        """
        # Checkpoints know this class, so it cannot know them before it is there.
        from local_backend.checkpoint import load

        return load(source, config=config, **options)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        request_temperature: Tensor | float | None = None,
        request_top_p: Tensor | float | None = None,
        regulate: bool = True,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> AutoDecoOutput | tuple[Any, ...]:
        """One pass of the base, then the heads on what it kept.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, kwargs: as for the base.
            logits_to_keep: how many last positions K to decide for, or which; 0 is all.
            request_temperature: [B] or one for all, multiplies T; 0 makes a row greedy.
            request_top_p: [B] or one for all, multiplies P.
            regulate: scale and cut the logits; if not, they are the base's own and the decisions are the heads' own.
            labels: refused.
            return_dict: False returns a tuple.

        Raises:
            ValueError: labels were given.
        """
        if labels is not None:
            raise ValueError(
                "no loss is computed here, since regulated logits train nothing: use local_backend.training"
            )
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
        }
        kwargs |= {name: value for name, value in given.items() if value is not None}
        if self._keeps_logits:
            kwargs["logits_to_keep"] = logits_to_keep
        hidden, base = self._run(kwargs)
        logits = base.logits
        if not self._keeps_logits:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            hidden, logits = hidden[:, kept], logits[:, kept]
        decision = self._decide(hidden.to(logits.device), logits)
        spread = entropy(logits) if self.report_entropy else None
        if regulate:
            temperature = _per_position(request_temperature, "request_temperature", logits)
            top_p = _per_position(request_top_p, "request_top_p", logits)
            decision = combine(decision, temperature, top_p)
            if not (self._plain and temperature is None and top_p is None):
                logits = regulated(logits, decision)
        out = AutoDecoOutput(logits=logits, temperature=decision.temperature, top_p=decision.top_p, entropy=spread)
        for name, value in base.items():
            if name != "logits":
                out[name] = value
        return out if return_dict is not False else out.to_tuple()

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Within it the heads decide T = 1 and P = 1: the base's own logits, unless a request asks for something."""
        before, self._plain = self._plain, True
        try:
            yield
        finally:
            self._plain = before

    @property
    def contained(self) -> int:
        """How many decisions were not finite and became T = 1, P = 1, since the model was made."""
        return int(self._contained)

    def _run(self, arguments: dict[str, Any]) -> tuple[Tensor, Any]:
        """The base's output, and the hidden state [B, K, H] that entered its output embedding."""
        self._caught = []
        try:
            base = self.llm(**arguments, return_dict=True)
            if len(self._caught) != 1:
                raise RuntimeError(
                    f"{type(self.llm).__name__} called its output embedding {len(self._caught)} times in one pass, not once: "
                    "if it was replaced, replace it with model.set_output_embeddings"
                )
            return self._caught[0], base
        finally:
            self._caught = None

    def _watch(self) -> None:
        """Note what enters the output embedding from now on."""
        # A method, which a copy of the model takes along as its own.
        self._watching = self.llm.get_output_embeddings().register_forward_pre_hook(self._note)

    def _note(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if self._caught is not None:
            self._caught.append(arguments[0])

    def _decide(self, hidden: Tensor, logits: Tensor) -> Decision:
        """What the heads decide for hidden [B, K, H] and logits [B, K, V]: [B, K]."""
        if self._plain:
            ones = torch.ones(logits.shape[:-1], device=logits.device)
            return Decision(ones, ones)
        decision, count = contain(self.heads(hidden, logits))
        self._contained = self._contained + count
        return decision

    # What transformers asks a causal LM for, answered by the base.

    def get_input_embeddings(self) -> nn.Module:
        """The base's."""
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the base's."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The base's."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the base's, and watch the new one."""
        self._watching.remove()
        self.llm.set_output_embeddings(new_embeddings)
        self._watch()

    def init_weights(self) -> None:
        """Nothing: the base and the heads have initialised themselves, and may be trained by now."""


def output_width(base: PreTrainedModel) -> int:
    """H, the width of what a base hands to its output embedding; not always its hidden_size.

    Raises:
        ValueError: the base has no output embedding.
    """
    embedding = base.get_output_embeddings()
    if embedding is None:
        raise ValueError(
            f"{type(base).__name__} has no output embedding, so there is nothing to put heads on: give a causal LM"
        )
    return int(getattr(embedding, "in_features", embedding.weight.shape[-1]))


@torch.no_grad()
def _probe(base: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """One token through the base: what entered the output embedding [1, 1, H], and the logits [1, 1, V].

    Raises:
        ValueError: the base has no output embedding, or does not call it once a pass.
    """
    output_width(base)
    caught: list[Tensor] = []
    handle = base.get_output_embeddings().register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    training = base.training
    try:
        logits = base.eval()(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=base.device)).logits
    finally:
        handle.remove()
        base.train(training)
    if len(caught) != 1:
        raise ValueError(
            f"{type(base).__name__} called its output embedding {len(caught)} times for one token, not once: "
            "heads cannot tell which hidden state its logits come from"
        )
    return caught[0], logits


def _per_position(request: Tensor | float | None, name: str, logits: Tensor) -> Tensor | None:
    """A request of one number or [B] for logits [B, K, V]: float32 [B, K].

    Raises:
        ValueError: there is not one number for each row.
    """
    if request is None:
        return None
    batch, kept = logits.shape[:2]
    values = torch.as_tensor(request, dtype=torch.float32, device=logits.device)
    if values.shape not in ((), (batch,)):
        raise ValueError(
            f"{name} of shape {tuple(values.shape)} for a batch of {batch}: give one number, or one for each row"
        )
    return values.expand(batch).unsqueeze(1).expand(batch, kept)


AutoConfig.register(AutoDecoConfig.model_type, AutoDecoConfig)
AutoModelForCausalLM.register(AutoDecoConfig, AutoDecoModelForCausalLM)
