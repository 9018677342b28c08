"""The base's hidden states of examples: computed once and kept where they fit, since a frozen base never changes its mind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from local_backend.training.data import Example, collate, micro_batches
from local_backend.training.readout import Readout


class HiddenStates:
    """What the heads see of examples.

    Args:
        readout: the base.
        micro_batch_tokens: padded tokens the base sees at once.
    """

    def __init__(self, readout: Readout, *, micro_batch_tokens: int) -> None:
        self._readout = readout
        self._tokens = micro_batch_tokens
        # Examples are their own keys: two files may share line numbers.
        self._kept: dict[Example, Tensor] = {}

    def keep(self, examples: Sequence[Example], *, mib: int) -> bool:
        """Compute them all now, if they take at most so many MiB; says whether they did.

        The batches are those of the sorted examples, whatever the run does with them later: the states' last bits depend on
        what shared a batch, and a resumed run must find the same ones.
        """
        readout = self._readout
        size = sum(each.supervised for each in examples) * readout.hidden_size * readout.embedding.weight.element_size()
        if size > mib * 2**20:
            return False
        for group in micro_batches(examples, tokens=self._tokens):
            states = self._compute(group)
            parts = torch.split(states, [each.supervised for each in group])
            self._kept.update(zip(group, parts, strict=True))
        return True

    def of(self, examples: Sequence[Example]) -> Tensor:
        """The hidden states [N, H] that predict the supervised tokens of these, in the order of `collate`."""
        if examples[0] in self._kept:
            return torch.cat([self._kept[each] for each in examples])
        return self._compute(examples)

    def _compute(self, examples: Sequence[Example]) -> Tensor:
        batch = collate(examples, seed=0, epoch=0).to(self._readout.device)
        hidden = self._readout.hidden(batch.input_ids, batch.attention_mask, batch.position_ids)
        return hidden[batch.row, batch.column]
