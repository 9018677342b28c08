"""A model together with the ways into it: from decoding parameters to the copy and the arguments that carry them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

from policies import Capabilities
from selfreg_sdk.adapters.spelling import spelled
from selfreg_sdk.adapters.table import ways_of
from selfreg_sdk.adapters.ways import Field, Way, Ways, canonical, default_way, field_for, spellings

_KEPT = 64
_CAPS = frozenset({"max_tokens", "max_completion_tokens"})


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A copy with its parameters, and the arguments of a call that carry the others."""

    model: BaseChatModel
    arguments: Mapping[str, Any]
    inside: Mapping[str, Mapping[str, Any]]


class Adapter:
    """Carries decoding parameters into one model, which is never changed.

    Made once per model: copies are kept for the parameters used last, so that a repeated configuration costs a look-up. A
    copy shares the HTTP clients of the model.
    """

    def __init__(self, model: BaseChatModel) -> None:
        self.model = model
        self._ways: Ways = ways_of(model)
        self._made: OrderedDict[tuple[tuple[str, Any], ...], _Made] = OrderedDict()
        self._lock = Lock()

    @property
    def refused(self) -> frozenset[str]:
        """Parameters its integration has no way for."""
        return self._ways.refused if self.takes_samples else self._ways.refused | {"n"}

    @property
    def tells_end(self) -> bool:
        """Whether the integration always says how an answer ended."""
        return self._ways.tells_end

    @property
    def usage_adds_up(self) -> bool:
        """Whether every chunk of a stream counts only its own tokens."""
        return self._ways.usage_adds_up

    @property
    def takes_samples(self) -> bool:
        """Whether one call can return several samples."""
        if "n" in self._ways.refused:
            return False
        return "n" in self._ways.to or field_for(self.model, "n") is not None

    @property
    def own_samples(self) -> int:
        """How many samples a call returns by the model's own settings."""
        name = field_for(self.model, "n")
        beside = getattr(self.model, "model_kwargs", None) or {}
        return (getattr(self.model, name) if name is not None else beside.get("n")) or 1

    def narrow(self, known: Capabilities, learned: Mapping[str, str]) -> Capabilities:
        """What a model accepts through its integration, from what it accepts and what was learned of it.

        What the integration cannot carry is not sent, rather than tried. A token cap goes by the name that the integration
        puts on it, until the server refuses that name.
        """
        lost = set(self.refused)
        caps = _CAPS & set(learned)
        if self._ways.token_cap == "one":
            known = replace(known, token_cap_field="max_tokens")
            lost |= {"max_tokens"} if caps else set()
        elif self._ways.token_cap == "new" and not caps:
            known = replace(known, token_cap_field="max_completion_tokens")
        lost &= known.accepted | known.ignored
        return known.without(*lost, source="client") if lost else known

    def fit(self, params: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[BaseChatModel, dict[str, Any]]:
        """The model to call and the arguments to call it with.

        Args:
            params: decoding parameters by their names in the request.
            given: the caller's other arguments; they win, and dict arguments are merged instead of replaced.
        """
        made = self._with(params)
        arguments: dict[str, Any] = {**made.arguments, **given}
        for name, container in self._ways.containers.items():
            ours, theirs = made.inside.get(name), given.get(name)
            if ours or (theirs and container.shared):
                own = container.own(made.model) if container.shared or not theirs else {}
                arguments[name] = {**own, **(ours or {}), **(theirs or {})}
        return made.model, arguments

    def spelled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A caller's arguments with every decoding parameter under its own name, whatever the integration calls it."""
        return spelled(given, self._ways.containers)

    @staticmethod
    def names(params: Iterable[str]) -> dict[str, str]:
        """From every name that an integration or a server may call one of ``params`` by to the parameter."""
        return {name: param for param in params for name in (*spellings(param), param)}

    def _with(self, params: Mapping[str, Any]) -> _Made:
        key = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in params.items())
        with self._lock:
            if (made := self._made.get(key)) is not None:
                self._made.move_to_end(key)
                return made
        made = self._make(params)
        with self._lock:
            self._made[key] = made
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return made

    def _make(self, params: Mapping[str, Any]) -> _Made:
        updates: dict[str, Any] = {}
        arguments: dict[str, Any] = {}
        inside: dict[str, dict[str, Any]] = {}
        for name, value in params.items():
            way = self._way(name)
            if isinstance(way, Field):
                told = value if way.value is None else way.value(value)
                held = getattr(self.model, way.name) if way.key else None
                updates[way.name] = told if way.key is None else {**(held or {}), way.key: told}
                continue
            if way.unset is not None:
                updates[way.unset] = None
            if way.key is None:
                arguments[way.name] = value
            else:
                inside.setdefault(way.name, {})[way.key] = value
        if beside := getattr(self.model, "model_kwargs", None):  # sent last by most integrations, so it would win
            names = {name for param in params for name in spellings(param)}
            if names & beside.keys():
                updates["model_kwargs"] = {name: value for name, value in beside.items() if name not in names}
        return _Made(model=self._copy(updates), arguments=arguments, inside=inside)

    def _way(self, name: str) -> Way:
        known = self._ways.to
        return known.get(name) or known.get(canonical(name)) or default_way(self.model, name)

    def _copy(self, updates: Mapping[str, Any]) -> BaseChatModel:
        """The copy must not keep the original's cached serialisation: LangChain keys its cache and traces with it."""
        if not updates:
            return self.model
        copy = self.model.model_copy(update=dict(updates))
        copy.__dict__.pop("_serialized", None)
        return copy
