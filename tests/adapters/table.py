"""What every integration package puts on the wire, captured; writes docs/adapters.md.

``python -m tests.adapters.table --write docs/adapters.md``
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from langchain_core.runnables import Runnable

from policies import FIELDS
from selfreg_sdk import ChatSelfReg
from selfreg_sdk.errors import ParameterRejected
from tests.adapters.dialects import Json
from tests.adapters.packages import PACKAGES, Package
from tests.adapters.server import Server
from tests.sdk.regulated import ONCE

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"
COMMAND = "python -m tests.adapters.table --write docs/adapters.md"
NOWHERE = "not accepted"

WANTED: dict[str, Any] = {
    "temperature": 0.4,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "max_tokens": 256,
    "n": 3,
    "stop": ["END"],
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "repetition_penalty": 1.1,
    "reasoning_effort": "low",
    "verbosity": "low",
}
SCHEMA = {"title": "Reply", "type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
TOOL = {
    "title": "look_up",
    "description": "Look a word up.",
    "type": "object",
    "properties": {"word": {"type": "string"}},
    "required": ["word"],
}
_ENVELOPE = frozenset({"model", "messages", "input", "contents", "system", "stream", "tools"})


class Capture:
    """One package on a loopback server of its own; a context manager."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.server = Server(package.dialect)

    def __enter__(self) -> Capture:
        self.server.__enter__()
        self.model = self.package.make(self.server.url)
        self.chat = self.regulated()
        self.plain = self.sent(self.chat)
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.__exit__(*exc)

    def regulated(self, **given: Any) -> ChatSelfReg:
        return ChatSelfReg(**({"inner": self.model, "planner": "off", "store": ":memory:", "retry": ONCE} | given))

    def sent(self, chat: Runnable[Any, Any], **given: Any) -> Json:
        """The body of the one request that a call makes."""
        before = len(self.server.sent)
        chat.invoke("hello", **given)
        (body,) = self.server.bodies[before:]
        return body

    def landing(self, parameter: str) -> str:
        """The JSON path at which a caller's value of ``parameter`` arrives, or `NOWHERE`."""
        needs = self.package.needs.get(parameter)
        chat = self.regulated(inner=self.package.make(self.server.url, **needs)) if needs else self.chat
        count = len(self.server.sent)
        try:
            body = self.sent(chat, **{parameter: WANTED[parameter]})
        except ParameterRejected:
            assert len(self.server.sent) == count, "refused after it was sent"
            return NOWHERE
        # A parameter may bring others along; its own path is the one that holds its value.
        before = dict(paths(self.plain))
        found = [path for path, value in paths(body) if before.get(path) != value and value == WANTED[parameter]]
        assert len(found) <= 1, found
        return found[0] if found else NOWHERE

    def unasked(self) -> dict[str, Any]:
        """The decoding settings an integration sends though nobody asked for them."""
        return {path: value for path, value in paths(self.plain) if value not in (None, False)}

    def formats(self) -> tuple[str, str, str]:
        """Where tools, a schema for the answer, and the wish for usage in a stream arrive."""
        tools = self.sent(self.chat.bind_tools([TOOL]))
        schema = self.sent(self.chat.with_structured_output(SCHEMA, include_raw=True))
        list(self.chat.stream("hello"))
        asks = "stream_options" in self.server.bodies[-1]
        return _new(self.plain, tools), _new(self.plain, schema), "stream_options.include_usage" if asks else "always"


def _new(before: Json, after: Json) -> str:
    """Top-level fields that differ, with the key inside where there is only one."""
    found = []
    for name, value in after.items():
        if value == before.get(name) or name in ("messages", "input", "contents"):
            continue
        keys = [key for key in value if key not in (before.get(name) or {})] if isinstance(value, dict) else []
        inner = f".{keys[0]}" if len(keys) == 1 and name != "format" else ""
        found.append(f"{name}{inner}")
    return ", ".join(sorted(found))


def paths(body: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value outside the messages, with its path."""
    for name, value in body.items():
        if not prefix and name in _ENVELOPE:
            continue
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def page() -> str:
    """The generated page."""
    names = [package.name for package in PACKAGES]
    landings, formats, defaults = {}, {}, {}
    for package in PACKAGES:
        with Capture(package) as capture:
            landings[package.name] = {field: capture.landing(field) for field in FIELDS}
            formats[package.name] = capture.formats()
            defaults[package.name] = capture.unasked()
    lines = [
        "# What arrives where",
        "",
        "How the decoding parameters of selfreg reach a provider through each LangChain integration: the path in the JSON of the",
        "request, as a loopback server received it from the real package. Where it says “not accepted”, the integration has no way",
        "for the parameter; a policy's value is then not sent and stands in the answer's record under `ignored`, with",
        "`why: capability`, and a caller's own value is a `ParameterRejected` naming it, or dropped by the integration (a `stop`",
        "on the Responses API).",
        "",
        f"Generated by `{COMMAND}`; a test fails when it is out of date. Made with "
        + ", ".join(f"{name} {version}" for name, version in sorted(_versions().items()))
        + ".",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for field in FIELDS:
        cells = [_cell(landings[name][field]) for name in names]
        lines.append(f"| `{field}` | {' | '.join(cells)} |")
    for index, title in enumerate(("tools", "structured output", "usage in streams")):
        cells = [_cells(formats[name][index]) for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    cells = [_defaults(defaults[name]) for name in names]
    lines += [f"| sent unasked | {' | '.join(cells)} |", ""]
    lines += [
        "- **stop** is an argument of every integration; on ChatOllama it replaces the model's own, which beside it is an error there.",
        "- **structured output** is what `with_structured_output(schema)` sends by the integration's own default method.",
        "- **sent unasked**: what an integration sends for a model made without settings. A policy's value replaces it.",
        "- ChatOpenAI says `max_completion_tokens`. A server that refuses that name gets `max_tokens`, and keeps getting it.",
        "- `top_k` of ChatBedrockConverse is Claude's and Mistral's; `reasoning_effort` goes to models whose profile lists efforts.",
        "- An argument in the integration's own spelling (`max_output_tokens`, `options`, `generation_config`) is read as the",
        "  parameter it is: it wins over a policy, counts for the budget and is merged with what else is set there.",
        "- A call is one attempt: the retries of the provider SDKs are switched off on a copy of the model, and stay on in yours.",
        "- What is accepted by the integration may still be refused by the model: that is decided by the rules about models, and",
        "  learned from the provider's answer where they do not know it.",
        "",
    ]
    return "\n".join(lines)


def _cell(path: str) -> str:
    return path if path == NOWHERE else f"`{path}`"


def _cells(found: str) -> str:
    return "always" if found == "always" else ", ".join(f"`{name}`" for name in found.split(", "))


def _defaults(found: dict[str, Any]) -> str:
    return ", ".join(f"`{path}` = {json.dumps(value)}" for path, value in sorted(found.items())) or "–"


def _versions() -> dict[str, str]:
    return {
        package.distribution: ".".join(metadata.version(package.distribution).split(".")[:2]) for package in PACKAGES
    }


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file to write instead of printing")
    target = parser.parse_args().write
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = page()
    if target is None:
        print(text)
    else:
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
