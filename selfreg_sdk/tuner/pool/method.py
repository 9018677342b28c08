"""Method "pool": one pool of samples, a surface over configurations, the next block where a cent teaches most.

The loop holds no I/O. It yields requests and is sent what became of them, so the same search runs sequentially, with
any number of workers, or in a test without any provider; all it knows it reads from the pool, so a study resumes by
starting again on the pool it left. The algorithm, what it reached and what did not help are in docs/pool.md.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from selfreg_sdk.tuner.pool import choose, slate, surface
from selfreg_sdk.tuner.pool.allocate import Front
from selfreg_sdk.tuner.pool.grid import Bools, Floats, Ints
from selfreg_sdk.tuner.pool.hopeless import Proofs, Tally
from selfreg_sdk.tuner.pool.slate import Reason, Slate
from selfreg_sdk.tuner.pool.spend import Bill
from selfreg_sdk.tuner.pool.surface import Belief, Readings, Surface
from selfreg_sdk.tuner.pool.task import Fate, Method, Pool, PoolTask, Request, Winner
from selfreg_sdk.tuner.pool.viewing import Viewing, likeliest
from selfreg_sdk.tuner.pool.views import Seen

Asking = Generator[tuple[Request, ...], Sequence[Fate], None]

_LEAST_RATE = 1e-12
"""USD per token below which prices count as equal, so that the logarithm of a free model's is finite."""
_HIGH = 3.0
"""Standard deviations above its mean from which a configuration may still turn out to be the best."""
_LAST, _ABREAST = 0.05, 1 / 8
"""Of the last money, as a share of the total, so many of the requests that may be handed over at once must fit together: as each
may cost its worst, it would be spent in single file, which took a third of the time of 32 workers and changed no choice."""


class PoolSearch:
    """One search. `run` spends; `best` may be asked at any time, for any budget per request.

    The same task, pool, seed and ``parallel`` make the same requests. Requests together never cost more than the total
    while no request costs more than its `Pool.worst`, even if the pool refuses none.

    Args:
        seed: order in which examples are taken; the same for all cells, so that they are compared on common ones.
        parallel: requests handed over at once, at most. Blocks chosen together know of one another.
        seen: the pool through its views; None is one view, how samples are drawn.
    """

    def __init__(
        self,
        task: PoolTask,
        pool: Pool,
        *,
        seed: int = 0,
        parallel: int = 1,
        method: Method | None = None,
        seen: Seen | None = None,
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
        self.viewing = Viewing(task, pool, seen, share=self.method.share, prejudice=self.method.prejudice)
        self._prompts = (task.counted * task.rates.prompt[:, None]).mean(axis=1) + task.rates.request
        self._order: Ints = np.random.default_rng(seed).permutation(task.counted.shape[1])
        self._closed = np.zeros(len(still), bool)
        self._gap = np.zeros(task.counted.shape, bool)
        self._failed = np.zeros(int(task.grid.arm.max()) + 1, np.int64)
        limit = (1 + self.method.caution.slack) * task.budget
        self.proofs = Proofs(task, pool, limit=limit, risk=self.method.risk)
        for cell, example in zip(*np.nonzero(pool.taken[:, self._order]), strict=True):
            self.proofs.arrived(int(cell), int(self._order[example]))

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

    @property
    def hopeless(self) -> Tally:
        """How many configurations were closed by proof."""
        return self.proofs.tally

    def bills(self) -> tuple[Bill, ...]:
        """Costs as known now, one bill for each view."""
        return self.viewing.bills()

    def best(self, budget: float | None = None, *, cells: Bools | None = None) -> Winner | None:
        """The configuration to use now.

        Args:
            budget: USD a request may cost on average; None is the task's. The pool knows best what fits that one.
            cells: (C,) which may be chosen; None is all.

        Returns:
            None where nothing that was heard is known to fit: keep what you have.
        """
        found = self.slate(budget, cells=cells)
        return None if found.best is None else found.winner(found.best, self.task)

    def explain(self, budget: float | None = None, *, cells: Bools | None = None, count: int = 5) -> tuple[Reason, ...]:
        """The first ``count`` of the ranking that `best` heads, and by how much each is ahead of the next."""
        found = self.slate(budget, cells=cells)
        order = found.shortlist(count)
        cell, view = found.entries.cell[order], found.entries.view[order]
        fit, effects = self._surface(self._wary, cell, found.entries.n[order]), self.viewing.effects()
        return slate.explain(found, order, fit.cover, effects.error[view, self.task.grid.arm[cell]], self.task)

    def slate(self, budget: float | None = None, *, cells: Bools | None = None) -> Slate:
        """Every configuration that is known to fit a budget; arguments as of `best`."""
        task, caution, effects = self.task, self.method.caution, self.viewing.effects()
        offered = self.viewing.offered(effects)
        rows = slate.entries(self.bills(), offered, budget or task.budget, task.top, caution, task.sizes)
        mean, error = self._by_view(self._wary, rows.cell, rows.n, rows.view)
        at = rows.view, task.grid.arm[rows.cell]
        added = effects.mean[at], effects.error[at], effects.value(self.method.prejudice)[at]
        found = slate.slate(rows, mean, error, added, caution)
        return found if cells is None else found.among(cells)

    def expected(self, cell: Ints, n: Ints) -> Floats:
        """Expected score on new examples of each (cell, n) as it is drawn, (A,), in units of the metric's range, 1 best."""
        return self._surface(self._wary, cell, n).mean

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

    def _by_view(self, belief: Belief, cells: Ints, n: Ints, view: Ints) -> tuple[Floats, Floats]:
        """Posterior mean and error at rows (cell, n, view), before what views add, (A,) each.

        A fit reads an example once, at one n. So that each view's n are read as such, every view has a fit of its own.
        """
        mean, error = np.zeros(len(cells)), np.zeros(len(cells))
        known: dict[bytes, Surface] = {}
        for each in np.unique(view):
            mine = view == each
            key = cells[mine].tobytes() + n[mine].tobytes()
            if key not in known:
                known[key] = self._surface(belief, cells[mine], n[mine])
            fit = known[key]
            mean[mine], error[mine] = fit.mean, fit.error
        return mean, error

    def _advance(self, starts: Ints) -> Generator[tuple[Request, ...], Sequence[Fate], bool]:
        """Fit, then buy blocks worth one instalment; False when nothing came of it."""
        pace, grid = self.method.pace, self.task.grid
        bills = self.bills()
        readings: Ints = np.bincount(grid.arm[np.nonzero(self.pool.taken)[0]], minlength=len(self._failed))
        shut = (readings[grid.arm] < pace.warm) & ~np.isin(np.arange(len(grid.cells)), starts) | self._closed
        front = self._front(self._limits(bills, shut), bills[0], readings)
        if front is None:
            return False
        before, due = self._progress(), self.pool.spent + pace.fit * self.task.total
        ahead, news, asked = 0.0, False, False
        pending = np.zeros(self._gap.shape, bool)
        waiting: list[Request] = []
        while self.pool.spent + ahead < due and not (asked and news):  # what an arm costs is news: fit again
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
                ahead, asked = 0.0, True
                pending[:] = False
                for request in waiting:
                    pending[request.cell, request.example] = True
        if not asked:  # else what is left would be a round trip for a few, and the next fit chooses better ones
            yield from self._ask(waiting)
        return self._progress() > before

    def _limits(self, bills: Sequence[Bill], shut: Bools) -> Ints:
        """(V, C): the largest n of each cell worth asking for a view, 0 for none."""
        task = self.task
        explored = (choose.explored(bill, task.budget, task.top, self.method.caution, task.sizes) for bill in bills)
        limits = np.array([np.minimum(limit, self.proofs.dear - 1) for limit in explored])
        limits[:, shut] = 0
        # Of an arm never heard nothing is known but how it would be drawn.
        limits[1:, ~bills[0].known] = 0
        limits[~self.viewing.offered(self.viewing.effects()) & bills[0].known] = 0
        limits[self.proofs.worse[np.arange(limits.shape[1]), limits]] = 0
        return limits

    def _front(self, limits: Ints, bill: Bill, readings: Ints) -> Front | None:
        """The candidates that may be the best; all that are not yet read where none of those is left to read.

        Args:
            limits: (V, C). A cell is asked for the n at which, through the view that allows it, its score is best.
        """
        view, cells = np.nonzero(limits)
        if not len(cells):
            return None
        n, shift = limits[view, cells], self.viewing.effects().hope[view, self.task.grid.arm[cells]]
        if len(limits) > 1:
            pick = likeliest(cells, self._by_view(self._belief, cells, n, view)[0] + shift)
            cells, n, shift = cells[pick], n[pick], shift[pick]
        fit = self._surface(self._belief, cells, n)
        mean, error = fit.mean + shift, fit.error
        heard = bill.known[cells]
        self._prove(cells[heard], n[heard], bill)
        shut = self.proofs.worse[cells, n] | (self.proofs.dear[cells] <= n)
        n = np.where(heard, n, np.minimum(n, self.method.pace.probe))
        left = np.where(shut, 0, self._missing(cells, n).sum(axis=1))
        keep: Bools = np.asarray(mean + _HIGH * error > mean.max())
        if not (keep & (left > 0)).any():
            keep = left > 0
            if not keep.any():
                return None
        keep[mean.argmax()] = True
        return Front(
            cell=cells[keep],
            n=n[keep],
            open=left[keep],
            price=bill.base[cells[keep]] + n[keep] * bill.each[cells[keep]],
            heard=heard[keep],
            warm=readings[self.task.grid.arm[cells[keep]]] >= self.method.pace.warm,
            mean=mean[keep],
            cover=fit.cover[np.ix_(keep, keep)],
            noise=fit.noise.single**2 + fit.noise.shared**2,
            total=self.task.total,
        )

    def _prove(self, cells: Ints, n: Ints, bill: Bill) -> None:
        """Close what is proven hopeless: it is asked no more."""
        alone = len(self.viewing.views) == 1
        ready = self.proofs.ready(cells, n, scores=alone)
        if not ready.any():
            return
        cells, n, task, caution = cells[ready], n[ready], self.task, self.method.caution
        fits = choose.kept(bill, task.budget, task.top, caution, task.sizes)[cells, n - 1] >= caution.least
        self.proofs.look(cells, n, self.viewing.least_tokens(), fits, scores=alone)

    def _missing(self, cells: Ints, n: Ints) -> Bools:
        """(A, P): examples a cell was not yet asked n times, and may be asked."""
        return np.asarray((self.pool.taken[cells] < n[:, None]) & ~self._gap[cells])

    def _affordable(self, front: Front) -> Bools:
        """(A,): whether any request of a candidate fits what is left; of the last money, several at once."""
        examples = np.arange(self.task.counted.shape[1])
        worst = self.pool.worst(front.cell[:, None], examples[None, :], front.n[:, None]).max(axis=1)
        left = self.task.total - self.pool.spent
        abreast = max(self._parallel * _ABREAST, 1) if left < _LAST * self.task.total else 1
        return np.asarray((abreast * worst <= left) & ~self._closed[front.cell])

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
                    self._note(request, fate, old=old)
            else:  # nothing else is held now, so it will never fit
                self._closed[waiting[0].cell] = True
            waiting = [request for request in waiting[len(batch) :] if not self._closed[request.cell]]
        return waiting

    def _note(self, request: Request, fate: Fate, *, old: int) -> None:
        arm = self.task.grid.arm[request.cell]
        grew = int(self.pool.taken[request.cell, request.example]) > old
        if fate == "refused":
            self._closed[request.cell] = True
        elif grew:
            self._failed[arm] = 0
            if old == 0:
                self.proofs.arrived(request.cell, request.example)
        else:
            # Asked once and never again: what failed for good would fail for good money.
            self._gap[request.cell, request.example] = True
            self._failed[arm] += 1
            if self._failed[arm] >= self.method.patience:
                self._closed |= self.task.grid.arm == arm

    def _progress(self) -> tuple[int, int, int]:
        """Grows whenever something came of a request; bounded, so a search ends."""
        return int(self.pool.taken.sum()), int(self._gap.sum()), int(self._closed.sum())
