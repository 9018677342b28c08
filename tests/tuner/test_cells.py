"""From a task's space and what models accept to the cells of method "pool"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import Capabilities, resolve
from policies.capabilities import CHAT_COMPLETIONS, OPEN_WEIGHTS
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.pool.cells import Cells, accepted_space, cells_of, estimated_tokens, sendable
from selfreg_sdk.tuner.pool.grid import MAX_CELLS, STEPS
from selfreg_sdk.tuner.search.dimensions import Alternatives, contains, point_key
from selfreg_sdk.tuner.task.file import Task, parse_task
from tests.tuner.written import TASK

OPEN = Capabilities(model="any", accepted=OPEN_WEIGHTS)
CHAT = Capabilities(model="any", accepted=CHAT_COMPLETIONS)
COLD = CHAT.without("temperature", "top_p", source="test")


def task(space: Mapping[str, Any] | None = None, **changes: Any) -> Task:
    return parse_task(
        TASK | {"models": list(changes.pop("models", ["small"]))} | changes | ({"space": space} if space else {})
    )


def cells(written: Task, **capabilities: Capabilities) -> Cells:
    known = capabilities or dict.fromkeys(written.spec.models, OPEN)
    return cells_of(written.space, written.prompts, known)


def test_each_thing_that_can_be_sent_is_one_cell() -> None:
    written = task({"temperature": [0, 0.5, 1], "n": [1, 5], "max_tokens": 64}, models=["warm", "cold"])
    found = cells(written, warm=CHAT, cold=COLD)

    assert [config.get("temperature") for config in found.configs] == [0.0, 0.5, 1.0, None]
    assert [config["model"] for config in found.configs] == ["warm"] * 3 + ["cold"]
    assert all(config["max_tokens"] == 64 for config in found.configs)
    assert found.sizes == (1, 2, 3, 4, 5)
    assert found.notes == ("cold: temperature is not taken, so it is not varied there",)


def test_models_that_differ_lie_in_one_space_as_alternatives() -> None:
    written = task(None, models=["warm", "cold"])
    found = cells(written, warm=CHAT, cold=COLD)

    assert len(found.configs) == 2 * STEPS + 1
    assert int(found.grid.arm.max()) + 1 == 3, "temperature, top_p, and neither"
    assert len({point_key(cell) for cell in found.grid.cells}) == len(found.grid.cells)


def test_prompts_that_say_the_same_are_one() -> None:
    prompts = {"a": "What is {question}?", "b": "Say {question}", "again": "What is {question}?"}
    found = cells(task({"temperature": 0}, prompts=prompts))

    assert [config["prompt"] for config in found.configs] == ["a", "b"]


def test_caps_and_stops_are_views_and_no_cells() -> None:
    written = task({"temperature": 0, "max_tokens": [16, 256], "stop": [["\n"], None]})
    found = cells(written)

    assert len(found.configs) == 1
    assert found.configs[0]["max_tokens"] == 256
    assert "stop" not in found.configs[0]
    assert found.views[0].max_tokens == 256
    assert {view.stop for view in found.views} == {(), ("\n",)}
    assert found.viewable.all()


def test_what_a_model_that_thinks_would_have_said_under_a_smaller_cap_is_not_read_off() -> None:
    thinks = replace(OPEN, efforts=("low", "high"), default_effort="low")
    written = task({"temperature": 0, "max_tokens": [16, 256]}, models=["plain", "thinks"])
    found = cells(written, plain=OPEN, thinks=thinks)

    assert found.viewable[0].all()
    assert found.viewable[1:].tolist() == [[True, False]] * (len(found.views) - 1)


def test_a_stop_setting_alone_is_sent() -> None:
    assert cells(task({"temperature": 0, "stop": ["END"]})).configs[0]["stop"] == ["END"]


def test_a_range_that_a_model_ends_earlier_keeps_each_of_its_values_once() -> None:
    claude = resolve("claude-3-haiku", vendor="anthropic")
    found = cells(task({"temperature": [0, 2]}, models=["any", "claude"]), any=OPEN, claude=claude)
    heat = [config["temperature"] for config in found.configs if config["model"] == "claude"]

    assert heat == sorted(set(heat))
    assert max(heat) == 1.0


def test_too_many_cells_are_thinned_and_it_says_so() -> None:
    wide = {"temperature": [0, 1], "top_p": [0.1, 1], "min_p": [0, 0.2], "presence_penalty": [-1, 1]}
    found = cells(task(wide))

    assert len(found.configs) <= MAX_CELLS
    assert any("values each in place of 8" in note for note in found.notes)
    many = {name: [value / 100 for value in range(1, 100)] for name in ("temperature", "top_p", "min_p")}
    with pytest.raises(ConfigError, match="970299 combinations"):
        cells(task(many))


def test_settings_that_no_model_takes_are_left_out_of_a_searchers_space() -> None:
    written = task(None, models=["cold"])
    found = accepted_space(written.space, {"cold": COLD})
    assert set(found) == {"model", "prompt", "n", "max_tokens"}

    no_temperature = CHAT.without("temperature", source="test")
    assert "top_p" in accepted_space(written.space, {"cold": no_temperature})
    both = accepted_space(written.space, {"cold": COLD, "warm": CHAT})
    assert isinstance(both["temperature_or_top_p"], Alternatives)


def test_longer_prompts_count_more_tokens_and_prices_are_each_models() -> None:
    written = task({"temperature": 0}, prompts={"a": "{question}", "b": "{question} and so on and on and on"})
    found = cells(written)
    messages = {p.name: [p.render(each) for each in written.examples] for p in written.prompts}

    counted = found.counted(messages)
    assert counted.shape == (2, len(written.examples))
    assert (counted[1] > counted[0]).all()
    assert estimated_tokens([{"role": "user", "content": "é" * 40}]) == pytest.approx(80 / 4 + 7)


SETTINGS = {
    "temperature": st.sampled_from([[0, 1], [0, 0.5, 1], 0.7, [0, None]]),
    "top_p": st.sampled_from([[0.1, 1], 0.9]),
    "frequency_penalty": st.sampled_from([[-1, 1], [0, 1, 2]]),
    "reasoning_effort": st.sampled_from(["low", ["low", "high"], [None, "high"]]),
    "stop": st.sampled_from([["\n"], [["\n"], None]]),
    "max_tokens": st.sampled_from([64, [16, 256], [8, 16, 32]]),
}


@settings(max_examples=25)
@given(
    space=st.fixed_dictionaries({}, optional=SETTINGS),
    models=st.lists(
        st.sampled_from(["gpt-4o-mini", "gpt-5", "gpt-5.2", "o3-mini", "claude-3-haiku", "some-open-model"]),
        min_size=1,
        max_size=3,
        unique=True,
    ),
)
def test_every_cell_lies_in_the_grids_space_and_is_sent_as_it_says(space: dict[str, Any], models: list[str]) -> None:
    written = task(space or {"temperature": 0.5}, models=models)
    known = {model: resolve(model, vendor="openai") for model in models}
    found = cells(written, **known)

    assert len({point_key(config) for config in found.configs}) == len(found.configs)
    for config in found.configs:
        assert {"model", "prompt", "max_tokens"} <= config.keys()
        params = {name: value for name, value in config.items() if name not in ("model", "prompt")}
        assert sendable(config, known[config["model"]]) == params
    assert found.viewable.shape == (len(found.views), len(found.configs))
    assert np.isfinite(found.grid.places).all()
    narrowed = accepted_space(written.space, known)
    assert contains({"model": narrowed["model"]}, {"model": models[0]})
