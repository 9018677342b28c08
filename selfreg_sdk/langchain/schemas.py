"""Tools and schemas as the chat completions protocol spells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

from selfreg_sdk.errors import ConfigError

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool
ToolChoice = dict[str, Any] | str | bool | None
Schema = dict[str, Any] | type


def tool_arguments(
    tools: Sequence[Tool],
    *,
    tool_choice: ToolChoice = None,
    strict: bool | None = None,
    parallel_tool_calls: bool | None = None,
) -> dict[str, Any]:
    """Tools as the protocol spells them, and how they may be called.

    Raises:
        ConfigError: a tool without a schema, or a choice that is no tool.
    """
    arguments: dict[str, Any] = {"tools": [as_tool(tool, strict) for tool in tools]}
    if tool_choice:
        arguments["tool_choice"] = _choice(tool_choice, [name_of(tool) for tool in arguments["tools"]])
    if parallel_tool_calls is not None:
        arguments["parallel_tool_calls"] = parallel_tool_calls
    return arguments


def as_tool(tool: Tool, strict: bool | None = None) -> dict[str, Any]:
    """One tool, or one schema as a function to call.

    Raises:
        ConfigError: it has no schema.
    """
    try:
        return convert_to_openai_tool(tool, strict=strict)
    except ValueError as exc:
        raise ConfigError(f"{tool!r:.80} is no tool or schema: {exc}") from exc


def name_of(tool: Mapping[str, Any]) -> str:
    """The name of a tool; tools that a provider runs itself have none but their type."""
    return str(tool.get("function", tool).get("name", tool.get("type")))


def _choice(choice: dict[str, Any] | str | bool, names: Sequence[str]) -> dict[str, Any] | str:
    if isinstance(choice, dict):
        return choice
    if isinstance(choice, str) and choice in names:
        return {"type": "function", "function": {"name": choice}}
    if choice in (True, "any", "required"):
        return "required"
    if choice in ("auto", "none"):
        return str(choice)
    raise ConfigError(f"tool_choice={choice!r}: expected 'any', 'auto', 'none' or one of {list(names)}")


def json_schema_format(schema: Schema, strict: bool | None = None) -> dict[str, Any]:
    """The response format that asks for answers of a schema; one that has this form already stays as it is.

    Args:
        schema: pydantic class, TypedDict or JSON schema with a title.
        strict: follow it exactly; None does so for pydantic classes.

    Raises:
        ConfigError: it is no schema.
    """
    if isinstance(schema, dict) and isinstance(schema.get("json_schema"), dict):
        return schema
    if isinstance(schema, dict) and "name" in schema and "schema" in schema:
        return {"type": "json_schema", "json_schema": schema}
    function = dict(as_tool(schema, strict)["function"])
    function["schema"] = function.pop("parameters", {"type": "object", "properties": {}})
    if isinstance(schema, type) and issubclass(schema, BaseModel) and strict is not False:
        # Strict mode wants every field listed as required, at every depth: openai's own conversion knows the rules.
        # Imported here: a chat model without schemas does not need the package, which takes a second to load.
        import openai

        parameters = openai.pydantic_function_tool(schema)["function"]["parameters"]
        function |= {"schema": parameters, "strict": True}
    return {"type": "json_schema", "json_schema": function}
