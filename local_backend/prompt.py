"""Messages to prompt tokens, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from local_backend.protocol import ApiError, Message


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, ...]:
    """Render the conversation up to where the assistant speaks and encode it.

    Raises:
        ApiError: 400, when the template refuses the conversation (roles out of order, say) or nothing is left of it.
    """
    turns = []
    for message in messages:
        # `developer` is OpenAI's newer word for `system`; templates know the old one.
        turn = {"role": "system" if message.role == "developer" else message.role, "content": message.content}
        turns.append(turn if message.name is None else {**turn, "name": message.name})
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise ApiError(
            f"The chat template refuses these messages: {error}", param="messages", code="invalid_value"
        ) from None
    # The template writes the special tokens itself; adding them again would double the first one.
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    if not ids:
        raise ApiError("The messages hold no text for this model.", param="messages", code="invalid_value")
    return ids
