"""Prompts and completions of a record to token ids, apart, as they meet when generating: through the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Encoder:
    """One record to the ids of its prompt and of its completion.

    Args:
        tokenizer: the model's.
        end_ids: tokens that end an answer; a completion without one gets the tokenizer's.
    """

    def __init__(self, tokenizer: Any, end_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.bos: int | None = tokenizer.bos_token_id
        # Some tokenizers open every text with bos, some leave it to the chat template.
        self.opens = self.bos is not None and tokenizer("a")["input_ids"][:1] == [self.bos]

    def record(self, record: Any) -> tuple[list[int], list[int]]:
        """Prompt and completion."""
        if not isinstance(record, dict):
            raise ValueError(f"must be a JSON object, not {type(record).__name__}")
        if "inputs" in record:
            return _whole(record["inputs"]["p_ids"], "p_ids"), _whole(record["inputs"]["r_ids"], "r_ids")
        if "messages" in record:
            return self._conversation(record["messages"])
        prompt, completion = record.get("prompt"), record.get("completion")
        if isinstance(prompt, list) and isinstance(completion, list):
            return self._conversation([*prompt, *completion])
        if not (isinstance(prompt, str) and isinstance(completion, str)):
            raise ValueError('needs "prompt" and "completion", or "messages", or "inputs" with "p_ids" and "r_ids"')
        return self.prompt(prompt), self._ended(completion)

    def prompt(self, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
        """A prompt alone: text as the model sees it, or the messages before the assistant speaks."""
        if not isinstance(prompt, str):
            return self._text(self._asked(prompt))
        ids = self._text(prompt)
        if self.bos is not None and ids[:1] != [self.bos] and (self.opens or not ids):
            ids = [self.bos, *ids]
        if not ids:
            raise ValueError('"prompt" is empty, and this model has no token that opens a text')
        return ids

    def _asked(self, messages: Sequence[Mapping[str, Any]]) -> str:
        if not self.tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: give prompts as text")
        asked: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return asked

    def _text(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _conversation(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
        if not messages or messages[-1].get("role") != "assistant":
            raise ValueError("the last message must be the assistant's: it is what is learned from")
        if not (str(messages[-1].get("content") or "").strip() or messages[-1].get("tool_calls")):
            raise ValueError("the completion is empty")
        asked = self._asked(messages[:-1])
        whole = self.tokenizer.apply_chat_template(messages, tokenize=False)
        if not whole.startswith(asked):
            raise ValueError(
                'the chat template rewrites the prompt once it is answered: give "prompt" and "completion" as text'
            )
        return self._text(asked), self._ended(whole[len(asked) :])

    def _ended(self, text: str) -> list[int]:
        if not text.strip():
            raise ValueError("the completion is empty")
        ids = self._text(text)
        end = next((place for place, token in enumerate(ids) if token in self.end_ids), None)
        if end is not None:
            # What a template writes behind it is never generated.
            return ids[: end + 1]
        return ids if self.tokenizer.eos_token_id is None else [*ids, self.tokenizer.eos_token_id]


def _whole(ids: Any, name: str) -> list[int]:
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise ValueError(
            f'"{name}" must be token ids, at least one' + (": the completion is empty" if ids == [] else "")
        )
    return ids
