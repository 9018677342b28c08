"""The task file: what is tuned, on which examples, in which space, for how much money.

YAML with a published JSON schema (docs/task.schema.json), printed by ``python -m selfreg_sdk.tuner.task.file --schema``.
Files are named relative to the task file. Reading a task sends nothing, runs no code of the user's and needs no key.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example, Split, make_examples, shuffle, split
from selfreg_sdk.tuner.examples.files import read_examples
from selfreg_sdk.tuner.examples.prompts import Prompt, check_prompts
from selfreg_sdk.tuner.examples.texts import beside, read_text
from selfreg_sdk.tuner.scoring.rule import Rule
from selfreg_sdk.tuner.search.dimensions import Choice, Space
from selfreg_sdk.tuner.task.metric import rule_of
from selfreg_sdk.tuner.task.spec import ExampleFile, Message, TaskSpec
from selfreg_sdk.tuner.task.strict import explained, refuse_secrets
from selfreg_sdk.tuner.task.yaml_text import Document, read_yaml


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task and everything that its file names, read and checked against each other.

    Attributes:
        spec: what was written.
        folder: where names of files in it start from.
        examples: all of them (or those drawn by ``limit``), every one fit for every prompt.
        prompts: at least one.
        rule: the built-in scorer, which every example has what it needs of; None where a judge or a function scores.
    """

    spec: TaskSpec
    folder: Path
    examples: tuple[Example, ...]
    prompts: tuple[Prompt, ...]
    rule: Rule | None

    @cached_property
    def split(self) -> Split:
        """The examples in their parts."""
        return split(self.examples, seed=self.spec.seed, holdout=self.spec.holdout, test=self.spec.test)

    @property
    def space(self) -> Space:
        """Everything that is varied: model, prompt and decoding parameters."""
        names = tuple(prompt.name for prompt in self.prompts)
        return {"model": Choice(self.spec.models), "prompt": Choice(names), **self.spec.varied.dimensions()}

    @property
    def prices(self) -> Path | None:
        """The file with the user's own prices."""
        return None if self.spec.prices is None else beside(self.folder, self.spec.prices)

    def prompt(self, name: str) -> Prompt:
        """The prompt of this name.

        Raises:
            ConfigError: there is none.
        """
        for prompt in self.prompts:
            if prompt.name == name:
                return prompt
        raise ConfigError(f"prompt {name!r} is not one of {', '.join(prompt.name for prompt in self.prompts)}")


def load_task(file: Path) -> Task:
    """The task in a YAML file.

    Raises:
        ConfigError: one line per problem, each naming the file, the line as far as known, and the remedy.
    """
    return _task(read_yaml(file, "task file"))


def parse_task(values: Mapping[str, Any], *, folder: Path | None = None) -> Task:
    """The task in a mapping of the same shape.

    Args:
        folder: where names of files start from; None is the working folder.

    Raises:
        ConfigError: as `load_task`, without lines.
    """
    return _task(Document(value=values, origin="task", folder=folder or Path()))


def task_schema() -> dict[str, Any]:
    """The JSON schema of task files, for editors."""
    schema = {"title": "selfreg task", **_plain(TaskSpec.model_json_schema(by_alias=True))}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


_NAMES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _plain(schema: Any) -> Any:
    """The schema in JSON schema's own words: pydantic titles every name, and writes its own bounds in places.

    Versions of it differ in whether a bound is 0 or 0.0, and in whether what is allowed anyway is said.
    """
    if isinstance(schema, dict):
        kept = {name: part for name, part in schema.items() if name not in ("title", "discriminator")}
        if kept.get("additionalProperties") is True:
            del kept["additionalProperties"]
        return {_NAMES.get(name, name): _plain(part) for name, part in kept.items()}
    if isinstance(schema, float) and schema.is_integer():
        return int(schema)
    return [_plain(part) for part in schema] if isinstance(schema, list) else schema


def _task(document: Document) -> Task:
    refuse_secrets(document, document.value)
    try:
        spec = TaskSpec.model_validate(document.value)
    except ValidationError as error:
        raise explained(error, document) from None
    prompts = tuple(_prompt(name, messages, document) for name, messages in spec.prompts.items())
    examples = _examples(spec, document)
    with _at(document, "prompts"):
        check_prompts(prompts, examples)
        for prompt in prompts:
            if spec.answer in prompt.fields:
                raise ConfigError(
                    f"prompt {prompt.name!r} fills in {{{spec.answer}}}, the expected answer; take it out, or name another "
                    f"field with 'answer'"
                )
    with _at(document, "metric", "scorer"):
        rule = rule_of(spec.metric.scorer, answer=spec.answer, folder=document.folder)
        if rule is not None:
            _check_rule(rule, examples, spec.answer)
    if spec.cascade is not None:
        with _at(document, "cascade"):
            spec.cascade.check(most=spec.most_samples, folder=document.folder)
    task = Task(spec=spec, folder=document.folder, examples=examples, prompts=prompts, rule=rule)
    with _at(document, "holdout" if "holdout" in spec.model_fields_set else "examples"):
        _ = task.split
    return task


def _prompt(name: str, messages: Sequence[Message], document: Document) -> Prompt:
    with _at(document, "prompts", name):
        return Prompt(name=name, messages=tuple((message.role, _text(message, document)) for message in messages))


def _text(message: Message, document: Document) -> str:
    if message.file is None:
        return message.content or ""
    text = read_text(beside(document.folder, message.file), "prompt").replace("\r\n", "\n")
    return text.removesuffix("\n")  # editors end every file with a line break, which is none of the prompt


def _examples(spec: TaskSpec, document: Document) -> tuple[Example, ...]:
    given = ExampleFile(file=spec.examples) if isinstance(spec.examples, str) else spec.examples
    if not isinstance(given, ExampleFile):
        places = [f"{document.place(('examples', index))}, example {index + 1}" for index in range(len(given))]
        with _at(document, "examples", when=not given):
            return make_examples(given, places=places)
    with _at(document, "examples"):
        found = read_examples(
            beside(document.folder, given.file), format=given.format, id_field=given.id, delimiter=given.delimiter
        )
    return found if given.limit is None else shuffle(found, seed=spec.seed, limit=given.limit)


def _check_rule(rule: Rule, examples: Sequence[Example], answer: str) -> None:
    for example in examples:
        if answer in rule.needs and answer not in example.fields:
            raise ConfigError(
                f"example {example.id!r} has no field {answer!r}, with which the scorer {rule.name!r} compares; its fields "
                f"are {', '.join(example.fields)}; name the right one with 'answer'"
            )
        rule.check(example)


@contextmanager
def _at(document: Document, *path: str, when: bool = True) -> Iterator[None]:
    """Say where in the document an error comes from."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{document.place(path)}: {error}" if when else str(error)) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the JSON schema."""
    parser = argparse.ArgumentParser(description="The task file of selfreg.")
    parser.add_argument("--schema", action="store_true", required=True, help="print the JSON schema of task files")
    parser.parse_args(arguments)
    sys.stdout.write(json.dumps(task_schema(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
