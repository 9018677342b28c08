"""The overhead bench: both sides do the same work but for the heads, take turns, and make the rows that are promised."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from bench import heads_overhead
from bench.heads_overhead import EMBEDDED, STATIC, TARGET, Sizes, llama, measure
from bench.rows import Row
from local_backend.model import AutoDecoModelForCausalLM

SMALL = Sizes(
    steps={1: 2, 3: 1}, warm_up=1, prompt=4, larger=llama(hidden_size=24, intermediate_size=32, num_hidden_layers=1)
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    before = torch.get_num_threads()
    found = [row for row in measure(SMALL) if row.case.endswith(", cpu")]
    assert torch.get_num_threads() == before
    return found


def test_each_model_batch_and_static_setting_has_a_row(rows: list[Row]) -> None:
    larger = "random Llama of 2 M, vocabulary 32000"
    assert [(row.case, row.peer_name, row.n, row.target) for row in rows] == [
        (f"{name}, batch {batch}, cpu", f"no heads, T={heat:g}, top_p={mass:g}", steps * more, target)
        for name, more, target in ((EMBEDDED, 4, None), (larger, 1, TARGET))
        for batch, steps in SMALL.steps.items()
        for heat, mass in STATIC
    ]


def test_rows_are_ratios_with_their_interval(rows: list[Row]) -> None:
    for row in rows:
        assert row.ratio == pytest.approx(row.ours / row.peer)
        assert row.low <= row.ratio <= row.high
        assert row.met == (None if row.target is None else row.ratio <= TARGET)
        assert json.loads(row.to_json())["bench"] == "heads_overhead"


def test_sides_take_turns_and_the_prefill_and_the_warm_up_are_not_timed() -> None:
    now, order = [0.0], ""

    def side(name: str, cost: float) -> Iterator[None]:
        nonlocal order
        while True:
            order += name
            now[0] += 100.0 if len(order) <= 6 else cost
            yield

    ours, peer = heads_overhead._in_turns((side("h", 3.0), side("p", 2.0)), steps=4, warm_up=2, clock=lambda: now[0])
    assert (ours, peer) == ([3.0] * 4, [2.0] * 4)
    assert order == "phhp" * 3 + "ph"


def test_heads_decide_about_what_is_sampled_without_them_and_distributions_are_peaked() -> None:
    _, base = heads_overhead._larger(llama(num_hidden_layers=1), "cpu", 0)
    model = AutoDecoModelForCausalLM.attach(base, heads_overhead._heads(768, 0))
    with torch.no_grad():
        out = model(torch.arange(10, 40).unsqueeze(0), regulate=False)
    p = torch.softmax(out.logits.float(), dim=-1)
    assert 0.5 < -(p * p.clamp(min=1e-30).log()).sum(dim=-1).mean() < 4
    for found, wanted in zip((out.temperature, out.top_p), STATIC[0], strict=True):
        assert found.mean().item() == pytest.approx(wanted, abs=0.15)
