"""Tools and structured output: on an endpoint as ChatOpenAI takes them, around an inner model as that one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnableParallel, RunnablePassthrough, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.utils.pydantic import TBaseModel, is_basemodel_subclass

from selfreg_sdk.errors import ConfigError, Refused
from selfreg_sdk.langchain.requests import NAMES
from selfreg_sdk.langchain.schemas import Schema, Tool, as_tool, json_schema_format, name_of, tool_arguments

if TYPE_CHECKING:
    from selfreg_sdk.chat_model import ChatSelfReg

Method = Literal["json_schema", "function_calling", "json_mode"]


def with_tools(
    chat: ChatSelfReg, tools: Sequence[Tool], given: Mapping[str, Any], more: Mapping[str, Any]
) -> Runnable[Any, Any]:
    """``chat`` with tools bound.

    Args:
        chat: the model.
        tools: whatever `convert_to_openai_tool` takes.
        given: tool_choice, strict and parallel_tool_calls, None where nobody said anything.
        more: further arguments to bind.

    Raises:
        ConfigError: a tool without a schema, or a choice that is no tool.
    """
    said = {name: value for name, value in given.items() if value is not None}
    if chat.inner is not None:
        ours = {name: more[name] for name in NAMES if name in more}
        theirs = {name: value for name, value in more.items() if name not in ours}
        made = _regulated(chat.inner.bind_tools(tools, **said, **theirs), chat)
        return made.bind(**ours) if ours else made
    return chat.bind(**tool_arguments(tools, **said), **more)


def with_schema(
    chat: ChatSelfReg,
    schema: Schema | None,
    *,
    method: Method | None,
    include_raw: bool,
    strict: bool | None,
    kwargs: Mapping[str, Any],
) -> Runnable[Any, Any]:
    """``chat`` followed by what turns its answers into objects; see `ChatSelfReg.with_structured_output`.

    Raises:
        ConfigError: a schema or a combination that cannot work.
    """
    if chat.inner is not None:
        said = {name: value for name, value in (("method", method), ("strict", strict)) if value is not None}
        made = chat.inner.with_structured_output(schema, include_raw=include_raw, **said, **kwargs)  # type: ignore[arg-type]
        return _regulated(made, chat)
    method = method or "json_schema"
    arguments = _format_arguments(schema, method, strict)
    if schema is not None:
        arguments["ls_structured_output_format"] = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    llm, parser = chat.bind(**arguments, **kwargs), _parser(schema, method)
    if not include_raw:
        return llm | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([unparsed], exception_key="parsing_error")


def _format_arguments(schema: Schema | None, method: Method, strict: bool | None) -> dict[str, Any]:
    """What asks the endpoint for answers of a schema."""
    if method == "json_mode":
        if strict is not None:
            raise ConfigError(f"strict={strict!r}: 'json_mode' follows no schema; use method='json_schema'")
        return {"response_format": {"type": "json_object"}}
    if schema is None:
        raise ConfigError(f"method={method!r} needs a schema; without one, use method='json_mode'")
    if method == "function_calling":
        name = name_of(as_tool(schema, strict))
        return tool_arguments([schema], tool_choice=name, strict=strict, parallel_tool_calls=False)
    if method == "json_schema":
        return {"response_format": json_schema_format(schema, strict)}
    raise ConfigError(f"method={method!r}: expected 'json_schema', 'function_calling' or 'json_mode'")


class _Candid:
    """Put before a parser of answers: a refusal is said as one, not as text that does not parse."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        for answer in result:
            message = answer.message if isinstance(answer, ChatGeneration) else None
            whole = not partial or getattr(message, "chunk_position", None) == "last"  # streams are parsed in part only
            if message is not None and whole and (refusal := message.additional_kwargs.get("refusal")):
                raise Refused(refusal)
        return super().parse_result(result, partial=partial)  # type: ignore[misc]  # a mix-in: the parser comes after


class _Objects(_Candid, PydanticOutputParser[TBaseModel]):
    pass


class _Json(_Candid, JsonOutputParser):
    pass


class _ObjectCalls(_Candid, PydanticToolsParser):
    pass


class _JsonCalls(_Candid, JsonOutputKeyToolsParser):
    pass


def _parser(schema: Schema | None, method: Method) -> Runnable[Any, Any]:
    """What reads the answers; all of them read streams as they grow."""
    is_model = isinstance(schema, type) and is_basemodel_subclass(schema)
    if schema is None or method != "function_calling":
        return _Objects(pydantic_object=schema) if is_model else _Json()
    if is_model:
        return _ObjectCalls(tools=[schema], first_tool_only=True)
    return _JsonCalls(key_name=name_of(as_tool(schema, None)), first_tool_only=True)


def _regulated(made: Runnable[Any, Any], chat: ChatSelfReg) -> Runnable[Any, Any]:
    """What an inner model made of itself, with ``chat`` in its place: its tools and parsers stay, its calls are ours.

    Raises:
        ConfigError: the inner model is nowhere to be seen, so that its calls would be neither regulated nor counted.
    """
    models: list[BaseChatModel] = []

    def rebuilt(part: Runnable[Any, Any]) -> Runnable[Any, Any]:
        if isinstance(part, BaseChatModel):
            models.append(part)
            return chat if part is chat.inner else chat.model_copy(update={"inner": part})
        if isinstance(part, RunnableBindingBase):
            return part.model_copy(update={"bound": rebuilt(part.bound)})
        if isinstance(part, RunnableSequence):
            return RunnableSequence(*(rebuilt(step) for step in part.steps), name=part.name)
        if isinstance(part, RunnableParallel):
            return RunnableParallel({name: rebuilt(step) for name, step in part.steps__.items()})
        return part

    whole = rebuilt(made)
    if not models:
        raise ConfigError(
            f"{type(chat.inner).__name__} answers with a {type(made).__name__} in which selfreg cannot find it: "
            "bind its arguments with .bind() instead"
        )
    return whole
