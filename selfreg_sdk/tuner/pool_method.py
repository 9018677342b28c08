"""Method "pool": one pool of samples, a surface over configurations, the next block where a cent teaches most.

The loop holds no I/O. It yields requests and is sent what became of them, so the same search runs sequentially, with
any number of workers, or in a test without any provider; all it knows it reads from the pool, so a study resumes by
starting again on the pool it left. The algorithm, what it reached and what did not help are in docs/pool.md.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from selfreg_sdk.tuner import choose, surface
from selfreg_sdk.tuner.allocate import Front
from selfreg_sdk.tuner.grid import Bools, Ints
from selfreg_sdk.tuner.pool_task import Fate, Method, Pool, PoolTask, Request, Winner
from selfreg_sdk.tuner.spend import Bill, Costs, Replies
from selfreg_sdk.tuner.surface import Belief, Readings, Surface

Asking = Generator[tuple[Request, ...], Sequence[Fate], None]

_LEAST_RATE = 1e-12
"""USD per token below which prices count as equal, so that the logarithm of a free model's is finite."""
_HIGH = 3.0
"""Standard deviations above its mean from which a configuration may still turn out to be the best."""


class PoolSearch:
    """One search. `run` spends; `best` may be asked at any time, for any budget per request.

    The same task, pool, seed and ``parallel`` make the same requests. Requests together never cost more than the total
    while no request costs more than its `Pool.worst`, even if the pool refuses none.

    Args:
        seed: order in which examples are taken; the same for all cells, so that they are compared on common ones.
        parallel: requests handed over at once, at most. Blocks chosen together know of one another.
    """

    def __init__(
        self, task: PoolTask, pool: Pool, *, seed: int = 0, parallel: int = 1, method: Method | None = None
    ) -> None:
        self.task, self.pool, self.method = task, pool, method or Method()
        self._parallel = max(parallel, 1)
        rate = np.log(np.maximum(task.rates.prompt + task.rates.answer, _LEAST_RATE))
        still, slope = self.method.likeness.over(task.grid, rate - rate.mean())
        self._belief = Belief(
            still=still,
            slope=slope,
            centre=np.full(len(still), self.method.centre),
            kin=surface.kinship(task.grid),
            noise=self.method.noise,
        )
        self._wary = replace(self._belief, drift=self.method.drift, wander=self.method.wander)
        self._costs = Costs(task.grid, task.counted, task.rates, share=self.method.share)
        self._prompts = (task.counted * task.rates.prompt[:, None]).mean(axis=1) + task.rates.request
        self._order: Ints = np.random.default_rng(seed).permutation(task.counted.shape[1])
        self._closed = np.zeros(len(still), bool)
        self._gap = np.zeros(task.counted.shape, bool)
        self._failed = np.zeros(int(task.grid.arm.max()) + 1, np.int64)

    def run(self) -> Winner | None:
        """Spend until nothing affordable is left to learn; None if no configuration is known to fit the budget."""
        asking = self.asking()
        try:
            requests = next(asking)
            while True:
                requests = asking.send(self.pool.buy(requests))
        except StopIteration:
            return self.best()
        finally:
            asking.close()

    def asking(self) -> Asking:
        """The search as a generator: yields independent requests, is sent their fates when the pool holds results."""
        starts = self._starts()
        heard = np.isin(self.task.grid.arm, self.task.grid.arm[self.pool.taken.any(axis=1)])
        first, n = int(self._order[0]), min(self.method.opening, self.task.top)
        yield from self._ask(
            [Request(cell=int(c), example=first, n=n) for c in starts[: self.method.openers] if not heard[c]]
        )
        while (yield from self._advance(starts)):
            pass

    def bill(self) -> Bill:
        """Costs as known now."""
        cell, example = np.nonzero(self.pool.taken)
        tokens, billed = self.pool.tokens[cell, example], self.pool.billed[cell, example]
        return self._costs.bill(Replies(cell=cell, example=example, tokens=tokens, billed=billed))

    def best(self, budget: float | None = None) -> Winner | None:
        """The configuration to use now.

        Args:
            budget: USD a request may cost on average; None is the task's. The pool knows best what fits that one.

        Returns:
            None where nothing that was heard is known to fit: keep what you have.
        """
        bill, caution, budget = self.bill(), self.method.caution, budget or self.task.budget
        keep = choose.kept(bill, budget, self.task.top, caution)
        cell, n = choose.offers(keep, caution)
        if not len(cell):
            return None
        fit = self._surface(self._wary, cell, n)
        at = choose.winner(fit.mean, keep[cell, n - 1], caution)
        chosen, samples = int(cell[at]), int(n[at])
        wide = np.array([[float(samples)]])
        return Winner(
            cell=chosen,
            n=samples,
            score=self.task.score(float(fit.mean[at])),
            error=float(fit.error[at]) * (self.task.high - self.task.low),
            cost=float(bill.mean(wide)[chosen, 0]),
            cost_error=float(bill.error(wide)[chosen, 0]),
            keep=float(keep[chosen, samples - 1]),
        )

    def _starts(self) -> Ints:
        """The starting cells of arms whose prompts alone do not break the budget, cheapest first."""
        starts = self.task.grid.starts()
        starts = starts[self._prompts[starts] < self.task.budget]
        return np.asarray(starts[np.argsort(self._prompts[starts], kind="stable")])

    def _surface(self, belief: Belief, cells: Ints, n: Ints) -> Surface:
        """Posterior at (cell, n): each (cell, example) is read at the largest n asked of it, or at all it has."""
        top = np.zeros(len(self._prompts), np.int64)
        np.maximum.at(top, cells, n)
        cell, example = np.nonzero(self.pool.taken)
        taken = self.pool.taken[cell, example]
        read = np.where(top[cell] > 0, np.minimum(taken, top[cell]), taken)
        score = self.task.units(np.asarray(self.pool.score(cell, example, read), float))
        told = np.isfinite(score)
        seen = Readings(cell=cell[told], n=read[told], example=example[told], score=score[told])
        return surface.fit(self.task.grid, belief, seen, self.task.counted.shape[1], cells, n)

    def _advance(self, starts: Ints) -> Generator[tuple[Request, ...], Sequence[Fate], bool]:
        """Fit, then buy blocks worth one instalment; False when nothing came of it."""
        pace, grid = self.method.pace, self.task.grid
        bill = self.bill()
        limit = choose.explored(bill, self.task.budget, self.task.top, self.method.caution)
        limit[self._closed] = 0
        readings: Ints = np.bincount(grid.arm[np.nonzero(self.pool.taken)[0]], minlength=len(self._failed))
        limit[(readings[grid.arm] < pace.warm) & ~np.isin(np.arange(len(limit)), starts)] = 0
        cells = np.nonzero(limit)[0]
        front = self._front(cells, limit[cells], bill, readings) if len(cells) else None
        if front is None:
            return False
        before, spent, ahead, news = self._progress(), self.pool.spent, 0.0, False
        pending = np.zeros(self._gap.shape, bool)
        waiting: list[Request] = []
        while self.pool.spent - spent + ahead < pace.fit * self.task.total:
            size = front.sizes(pace)
            at = front.best(size, self._affordable(front), pace.thrift)
            if at is None:
                break
            block = self._block(int(front.cell[at]), int(front.n[at]), int(size[at]), pending)
            waiting += block
            ahead += len(block) * float(front.price[at])
            news |= not front.heard[at]
            front.read(at, int(size[at]))
            if len(waiting) >= self._parallel:
                waiting = yield from self._ask(waiting, whole=True)
                ahead = 0.0
                pending[:] = False
                for request in waiting:
                    pending[request.cell, request.example] = True
                if news:
                    break  # what an arm costs is news: fit again
        yield from self._ask(waiting)
        return self._progress() > before

    def _front(self, cells: Ints, n: Ints, bill: Bill, readings: Ints) -> Front | None:
        """The candidates that may be the best; all that are not yet read where none of those is left to read."""
        fit = self._surface(self._belief, cells, n)
        heard = bill.known[cells]
        n = np.where(heard, n, np.minimum(n, self.method.pace.probe))
        left = self._missing(cells, n).sum(axis=1)
        keep: Bools = np.asarray(fit.mean + _HIGH * fit.error > fit.mean.max())
        if not (keep & (left > 0)).any():
            keep = left > 0
            if not keep.any():
                return None
        keep[fit.mean.argmax()] = True
        return Front(
            cell=cells[keep],
            n=n[keep],
            open=left[keep],
            price=bill.base[cells[keep]] + n[keep] * bill.each[cells[keep]],
            heard=heard[keep],
            warm=readings[self.task.grid.arm[cells[keep]]] >= self.method.pace.warm,
            mean=fit.mean[keep],
            cover=fit.cover[np.ix_(keep, keep)],
            noise=fit.noise.single**2 + fit.noise.shared**2,
            total=self.task.total,
        )

    def _missing(self, cells: Ints, n: Ints) -> Bools:
        """(A, P): examples a cell was not yet asked n times, and may be asked."""
        return np.asarray((self.pool.taken[cells] < n[:, None]) & ~self._gap[cells])

    def _affordable(self, front: Front) -> Bools:
        """(A,): whether any one request of a candidate fits what is left."""
        examples = np.arange(self.task.counted.shape[1])
        worst = self.pool.worst(front.cell[:, None], examples[None, :], front.n[:, None]).max(axis=1)
        return np.asarray((self.pool.spent + worst <= self.task.total) & ~self._closed[front.cell])

    def _block(self, cell: int, n: int, size: int, pending: Bools) -> list[Request]:
        """The examples least read in the cell's arm first, so that an arm is seen on many; ties in the seeded order.

        Args:
            pending: (C, P) what waits to be asked; the block is added to it.
        """
        need = np.nonzero(self._missing(np.array([cell]), np.array([n]))[0] & ~pending[cell])[0]
        mine = self.task.grid.arm == self.task.grid.arm[cell]
        load = ((self.pool.taken[mine] > 0) | pending[mine]).sum(axis=0)[need]
        chosen = need[np.lexsort((np.argsort(self._order)[need], load))][:size]
        pending[cell, chosen] = True
        return [Request(cell=cell, example=int(i), n=n - int(self.pool.taken[cell, i])) for i in chosen]

    def _ask(
        self, waiting: list[Request], *, whole: bool = False
    ) -> Generator[tuple[Request, ...], Sequence[Fate], list[Request]]:
        """Ask, at most ``parallel`` requests at once, whose worst cases fit together.

        Args:
            whole: fill every batch, and return the requests that fill none; else ask for all.
        """
        while waiting and not (whole and len(waiting) < self._parallel):
            batch: list[Request] = []
            held = self.pool.spent
            for request in waiting[: self._parallel]:
                at = (np.array([part]) for part in (request.cell, request.example, request.n))
                held += float(self.pool.worst(*at)[0])
                if held > self.task.total:
                    break
                batch.append(request)
            if batch:
                had = [int(self.pool.taken[request.cell, request.example]) for request in batch]
                for request, fate, old in zip(batch, (yield tuple(batch)), had, strict=True):
                    self._note(request, fate, grew=int(self.pool.taken[request.cell, request.example]) > old)
            else:  # nothing else is held now, so it will never fit
                self._closed[waiting[0].cell] = True
            waiting = [request for request in waiting[len(batch) :] if not self._closed[request.cell]]
        return waiting

    def _note(self, request: Request, fate: Fate, *, grew: bool) -> None:
        arm = self.task.grid.arm[request.cell]
        if fate == "refused":
            self._closed[request.cell] = True
        elif grew:
            self._failed[arm] = 0
        else:
            # Asked once and never again: what failed for good would fail for good money.
            self._gap[request.cell, request.example] = True
            self._failed[arm] += 1
            if self._failed[arm] >= self.method.patience:
                self._closed |= self.task.grid.arm == arm

    def _progress(self) -> tuple[int, int, int]:
        """Grows whenever something came of a request; bounded, so a search ends."""
        return int(self.pool.taken.sum()), int(self._gap.sum()), int(self._closed.sum())
