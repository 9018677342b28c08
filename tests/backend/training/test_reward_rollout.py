"""Samples with their hidden states: the same tokens as the engine's, alone or in a crowd, and the states they were drawn from."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from local_backend.generate import Row, generate
from local_backend.training.data import seed_of
from local_backend.training.evaluation.rollout import RoomyLayer, draw
from local_backend.training.readout import Readout
from tests.backend.training.training_parts import random_model

END = frozenset({2})
PROMPTS = [(1, 5, 6), (1, 7), (1, 5, 6), (1, 9, 10, 11, 12), (1, 7), (1, 5, 6)]
SEEDS = [seed_of("test", place) for place in range(len(PROMPTS))]
LONGEST = 24


def plain(_: Tensor, logits: Tensor) -> Tensor:
    return logits


def test_it_draws_what_the_engine_draws() -> None:
    model = random_model()
    rows = [Row(prompt_ids=prompt, max_tokens=LONGEST, seed=seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    expected: list[list[int]] = [[] for _ in rows]
    for step in generate(model, rows, eos_ids=END):
        for token in step:
            expected[token.row].append(token.id)
    drawn = draw(model, PROMPTS, SEEDS, plain, max_tokens=LONGEST, end_ids=END)
    found = [tokens[live].tolist() for tokens, live in zip(drawn.tokens, drawn.live, strict=True)]
    assert found == expected
    # Some ended early and some did not, so rows have left the batch on the way.
    assert len({len(tokens) for tokens in found}) > 1


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    model = random_model()
    together = draw(model, PROMPTS, SEEDS, plain, max_tokens=LONGEST, end_ids=END)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = draw(model, [prompt], [seed], plain, max_tokens=LONGEST, end_ids=END)
        assert alone.tokens[0][alone.live[0]].tolist() == together.tokens[row][together.live[row]].tolist()


def test_hidden_states_are_those_of_a_forward_pass() -> None:
    model = random_model()
    drawn = draw(model, PROMPTS, SEEDS, plain, max_tokens=LONGEST, end_ids=END, keep_hidden=True)
    assert drawn.hidden is not None
    readout = Readout(model)
    for row, prompt in enumerate(PROMPTS):
        live = drawn.live[row]
        ids = torch.tensor([[*prompt, *drawn.tokens[row][live].tolist()]])
        places = torch.arange(ids.shape[1]).unsqueeze(0)
        whole = readout.hidden(ids, torch.ones_like(ids), places)[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(drawn.hidden[row][live], whole, atol=1e-4, rtol=1e-4)


def test_the_rule_decides() -> None:
    def likeliest(_: Tensor, logits: Tensor) -> Tensor:
        return torch.full_like(logits, -torch.inf).scatter(1, logits.argmax(dim=1, keepdim=True), 0.0)

    drawn = draw(random_model(), [PROMPTS[0]] * 3, SEEDS[:3], likeliest, max_tokens=8, end_ids=END)
    assert len(set(map(tuple, drawn.tokens.tolist()))) == 1


def test_a_roomy_layer_is_a_dynamic_layer() -> None:
    torch.manual_seed(0)
    usual = DynamicCache()
    usual.update(torch.randn(4, 2, 3, 5), torch.randn(4, 2, 3, 5), 0)
    roomy = RoomyLayer(usual.layers[0], room=4)
    for _ in range(4):
        keys, values = torch.randn(2, 4, 2, 1, 5)
        found = roomy.update(keys, values)
        for ours, theirs in zip(found, usual.update(keys, values, 0), strict=True):
            assert torch.equal(ours, theirs)
    take = torch.tensor([3, 1])
    roomy.batch_select_indices(take)
    usual.batch_select_indices(take)
    assert torch.equal(roomy.keys, usual.layers[0].keys)
    assert torch.equal(roomy.values, usual.layers[0].values)
    assert roomy.get_seq_length() == 7


def test_seeds_are_named_by_everything() -> None:
    assert len({seed_of(0, "reward", 1, 2), seed_of(0, "reward", 1, 3), seed_of(0, "reward", 12, 2)}) == 3
    assert seed_of(0, "reward", 1, 2) == seed_of(0, "reward", 1, 2)
