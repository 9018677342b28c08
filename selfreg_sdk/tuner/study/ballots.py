"""What a vote compares where a tuned configuration runs: the same as while it was tuned, without any example.

A version in the store says it as plain JSON: the scorer of the task file, ``{"kind": "numeric", ...}``, whose rule knows the ballot
of an answer, or a function of the user's, ``{"function": "module:function", "folder": ...}``. None is the text itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from selfreg_sdk.aggregate import VoteKey, plain
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.examples.examples import Example
from selfreg_sdk.tuner.examples.functions import load_function
from selfreg_sdk.tuner.examples.texts import beside
from selfreg_sdk.tuner.task.file import Task
from selfreg_sdk.tuner.task.metric import JsonSchemaScorer, Scored, json_file, rule_of

UNKNOWN = "ballot_unknown"
"""Flag of an answer that was elected by its text, because the version's ballot is none that this release knows."""

_NOBODY = Example(id="", fields={})


def ballot_spec(task: Task) -> dict[str, Any] | None:
    """What `vote_key_of` rebuilds the ballot of a task from; None where votes compare the text."""
    metric = task.spec.metric
    if metric.vote_key is not None:
        return {"function": metric.vote_key, "folder": str(task.folder.resolve())}
    if task.rule is None:
        return None
    scorer = metric.scorer.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if isinstance(metric.scorer, JsonSchemaScorer) and metric.scorer.file is not None:
        # The version has to run where the file is not.
        scorer = {**scorer, "file": None, "schema": json_file(beside(task.folder, metric.scorer.file))}
    return {name: value for name, value in scorer.items() if value is not None} | {"kind": metric.scorer.kind}


def vote_key_of(spec: Mapping[str, Any] | None) -> tuple[VoteKey, tuple[str, ...]]:
    """From an answer to its ballot, and flags for the record. A function of the user's is imported now, once.

    Raises:
        ConfigError: the function cannot be imported, or a package is missing; names it.
    """
    return (plain, ()) if spec is None else _vote_key(json.dumps(spec, sort_keys=True))


@lru_cache(maxsize=256)
def _vote_key(text: str) -> tuple[VoteKey, tuple[str, ...]]:
    spec = json.loads(text)
    if (named := spec.get("function")) is not None:
        folder = spec.get("folder")
        try:
            return load_function(str(named), folder=Path(folder) if folder else None, arguments=1), ()
        except ConfigError as error:
            raise ConfigError(
                f"the tuned configuration takes a vote by {named!r}, which cannot be used: {error}; or pass vote_key= yourself"
            ) from error
    try:
        scorer = TypeAdapter(Scored).validate_python(spec)
    except ValidationError:
        return plain, (UNKNOWN,)
    rule = rule_of(scorer, answer="answer", folder=Path())
    return (plain, ()) if rule is None else ((lambda answer: rule.ballot(answer, _NOBODY)), ())
