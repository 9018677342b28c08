"""The embedded model's tokenizer: one token per character, a few special tokens, and the chat template."""

from __future__ import annotations

import string
from typing import Any

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from policies.plan import PLAN_MARKER

PAD, BOS, END, UNK = "<pad>", "<s>", "<|end|>", "<unk>"
USER, ASSISTANT, PLAN = "<|user|>", "<|assistant|>", "<|plan|>"
SPECIAL = (PAD, BOS, END, UNK, USER, ASSISTANT, PLAN)
CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " \n\t" + "…€–’“”"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set text = message['content'] -%}"
    "{%- else -%}{%- set text = (message['content'] or [])"
    " | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') -%}{%- endif -%}"
    "{%- if message['role'] in ('system', 'developer') -%}"
    "{%- if text.startswith('" + PLAN_MARKER + "') -%}" + PLAN + "{%- endif -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    + ASSISTANT
    + "{{ text }}"
    + END
    + "{%- else -%}"
    + USER
    + "{{ text }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}" + ASSISTANT + "{%- endif -%}"
)
"""Renders any conversation. The model knows one system message, the planning instruction, and sees it as one token;
other system messages are not shown to it, because it has never been trained on any."""


def make_tokenizer(*, context: int) -> PreTrainedTokenizerFast:
    """A Hugging Face fast tokenizer; a character it does not know becomes `<unk>`, so any text tokenises."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS))}
    # BPE without merges keeps characters apart and gives one <unk> per unknown one.
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK, fuse_unk=False))
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        unk_token=UNK,
        additional_special_tokens=[USER, ASSISTANT, PLAN],
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def render(tokenizer: Any, prompt: str, *, planning: bool = False) -> list[int]:
    """Token ids of one user message, ready for an answer; `planning` puts the planning instruction before it."""
    system = [{"role": "system", "content": PLAN_MARKER}] if planning else []
    ids: list[int] = tokenizer.apply_chat_template(
        [*system, {"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    return ids
