"""Several processes, one step: each takes its share of the examples, and what they found is added up in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor

from local_backend.heads import Heads

Item = TypeVar("Item")


class Together:
    """The processes that `torchrun` or `accelerate launch` started; alone, everything is its own.

    Args:
        cpu: stay off GPUs.
    """

    def __init__(self, *, cpu: bool) -> None:
        self._state: Any = PartialState(cpu=cpu)

    @property
    def device(self) -> torch.device:
        """This process's own."""
        return torch.device(self._state.device)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self._state.is_main_process)

    def share(self, examples: Sequence[Item]) -> Sequence[Item]:
        """This process's part."""
        return examples[self._state.process_index :: self._state.num_processes]

    def add_up(self, heads: Heads, sums: Mapping[str, float]) -> dict[str, float]:
        """The sums over all processes, which have the same names; the heads' gradients become sums in place."""
        if self._state.num_processes == 1:
            return dict(sums)
        parameters = list(heads.parameters())
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        own = torch.tensor(list(sums.values()), device=grads[0].device)
        total: Tensor = reduce(torch.cat([*(grad.flatten() for grad in grads), own]), "sum")
        found = torch.split(total, [*(each.numel() for each in parameters), len(sums)])
        for each, grad in zip(parameters, found[:-1], strict=True):
            each.grad = grad.view_as(each).clone()
        return dict(zip(sums, found[-1].tolist(), strict=True))

    def wait(self) -> None:
        """Until every process has come here."""
        self._state.wait_for_everyone()
