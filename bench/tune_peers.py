"""The peers of the replayed tuning task: random search, Optuna's TPE, and FLAML's own tuner in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from platformdirs import user_cache_path

from bench.replay_client import Endpoint
from bench.replay_scores import Metric, value
from bench.replay_task import Arm, Budgets, Configuration, Found, Offer, Problem, nearest

FLAML = ("flaml[blendsearch]==2.7.0", "openai==0.28.1", "diskcache", "termcolor")
"""What FLAML's tuner runs with: its extra for this is gone, its code is not."""
_ROOT = Path(__file__).parents[1]
_TRIALS = 300
_IDLE = 60
"""Proposals in a row that buy nothing, after which a search has seen all it will."""


class _Proposer(Protocol):
    """A search over (arm, temperature in [0, 1], n)."""

    def ask(self) -> tuple[Arm, float, int]:
        """The next proposal."""

    def tell(self, value: float) -> None:
        """What the last one was worth, 0 where it breaks the budget."""


class _Random:
    def __init__(self, offer: Offer, seed: int) -> None:
        self._offer, self._dice = offer, np.random.default_rng([9, seed])

    def ask(self) -> tuple[Arm, float, int]:
        arm = self._offer.arms[int(self._dice.integers(len(self._offer.arms)))]
        temperature = float(self._dice.uniform(0, 1))
        return arm, temperature, round(math.exp(self._dice.uniform(0, math.log(self._offer.samples))))

    def tell(self, value: float) -> None:
        """Random search does not learn."""


class _Tpe:
    def __init__(self, offer: Offer, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._offer = offer
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self) -> tuple[Arm, float, int]:
        self._trial = self._study.ask()
        arm = self._trial.suggest_categorical("arm", list(range(len(self._offer.arms))))
        temperature = self._trial.suggest_float("temperature", 0, 1)
        n = self._trial.suggest_int("n", 1, self._offer.samples, log=True)
        return self._offer.arms[arm], temperature, n

    def tell(self, value: float) -> None:
        self._study.tell(self._trial, value)


class _Purse:
    """Samples bought so far, each once; a full evaluation buys what is lacking, until the money is spent."""

    def __init__(self, problems: Sequence[Problem], total: Decimal, metric: Metric, endpoint: Endpoint) -> None:
        self._problems, self._total, self._metric, self._endpoint = problems, total, metric, endpoint
        self._texts: dict[tuple[str, str, float, int], list[str]] = {}
        self._prompt: dict[tuple[str, str, float, int], Decimal] = {}
        self._completion: dict[tuple[str, str, float, int], Decimal] = {}
        self.spent = Decimal(0)

    def evaluate(self, choice: Configuration) -> tuple[float, Decimal] | None:
        """(mean value, mean USD of a request), None where the money ended before."""
        values, cost = [], Decimal(0)
        for problem in self._problems:
            key = (choice.model, choice.prompt, choice.temperature, problem.id)
            texts = self._texts.setdefault(key, [])
            if len(texts) < choice.n:
                if self.spent >= self._total:
                    return None
                reply = self._endpoint.complete(choice, problem, choice.n - len(texts))
                self.spent += reply.prompt + reply.completion
                texts.extend(reply.texts)
                self._prompt[key] = reply.prompt
                self._completion[key] = self._completion.get(key, Decimal(0)) + reply.completion
            values.append(value(self._metric, texts[: choice.n], problem.answer))
            cost += self._prompt[key] + self._completion[key] * choice.n / len(texts)
        return sum(values) / len(values), cost / len(values)


class FullEvaluations:
    """A search that evaluates every proposal in full: no pruning. It returns its best feasible one, else its cheapest."""

    def __init__(self, name: str, proposer: type[_Random] | type[_Tpe]) -> None:
        self.name, self._proposer = name, proposer

    def tune(
        self, problems: Sequence[Problem], budgets: Budgets, metric: Metric, seed: int, endpoint: Endpoint
    ) -> Found:
        """See `bench.replay_task.Tuner`."""
        proposer: _Proposer = self._proposer(endpoint.offer, seed)
        purse = _Purse(problems, budgets.total, metric, endpoint)
        best: tuple[float, Configuration] | None = None
        cheapest: tuple[Decimal, Configuration] | None = None
        tried = scored = idle = 0
        while tried < _TRIALS and idle < _IDLE and purse.spent < budgets.total:
            arm, temperature, n = proposer.ask()
            choice = Configuration(
                model=arm.model,
                prompt=arm.prompt,
                temperature=nearest(arm.temperatures, temperature),
                n=n,
                max_tokens=endpoint.offer.longest,
            )
            before = purse.spent
            tried += 1
            seen = purse.evaluate(choice)
            if seen is None:
                break
            worth, cost = seen
            scored += 1
            idle = idle + 1 if purse.spent == before else 0
            feasible = cost <= budgets.per_request
            proposer.tell(worth if feasible else 0.0)
            if feasible and (best is None or worth > best[0]):
                best = (worth, choice)
            if cheapest is None or cost < cheapest[0]:
                cheapest = (cost, choice)
        chosen = best or cheapest
        return Found(configuration=chosen[1] if chosen else None, spent=purse.spent, tried=tried, scored=scored)


class Flaml:
    """FLAML's ``ChatCompletion.tune`` as it is shipped, in a process of its own (`bench/flaml_runner.py`).

    It never checks its first configuration against the budget per request, and returns it if nothing scores higher.
    """

    def __init__(self, name: str, process: subprocess.Popen[str], *, prune: bool, checked: bool) -> None:
        self.name, self._process, self._prune, self._checked = name, process, prune, checked

    def tune(
        self, problems: Sequence[Problem], budgets: Budgets, metric: Metric, seed: int, endpoint: Endpoint
    ) -> Found:
        """See `bench.replay_task.Tuner`. FLAML has no seed to set: the seed decides its problems and their answers alone."""
        offer = endpoint.offer
        arms = {(arm.model, arm.prompt): arm for arm in offer.arms}
        prompts = sorted(offer.systems)
        common = max(prompts, key=lambda name: sum(prompt == name for _, prompt in arms))
        job = {
            "url": endpoint.url,
            "problems": [{"id": each.id, "text": each.text, "answer": each.answer} for each in problems],
            # Its space is a product, so a model is asked with the common prompt where it was not recorded with another.
            "systems": [offer.systems[name].replace(f"={name}]]", f"={name},{common}]]", 1) for name in prompts],
            "prices": {model: [float(each * 1000) for each in price] for model, price in offer.prices.items()},
            "per_request": float(budgets.per_request),
            "total": float(budgets.total),
            "metric": metric,
            "prune": self._prune,
            "checked": self._checked,
            "samples": offer.samples,
            "longest": offer.longest,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in said:
            raise RuntimeError(f"FLAML failed: {said['error']}")
        chosen = said["chosen"]
        arm = arms.get((chosen["model"], prompts[chosen["prompt"]])) or arms[chosen["model"], common]
        return Found(
            configuration=Configuration(
                model=arm.model,
                prompt=arm.prompt,
                temperature=nearest(arm.temperatures, chosen["temperature"]),
                n=chosen["n"],
                max_tokens=chosen["max_tokens"],
            ),
            spent=Decimal(str(said["spent"])),
            tried=said["tried"],
            scored=said["scored"],
        )


@contextmanager
def flaml(name: str, *, prune: bool, checked: bool = False, folder: Path | None = None) -> Iterator[Flaml]:
    """FLAML's tuner, its process running until the block ends.

    Args:
        prune: whether it prunes by cost; without, every configuration is evaluated in full and scores 0 above the budget.
        checked: take the best of its configurations that kept the budget, as a careful user would, not the one it returns.
        folder: where its environment is kept; default: the user's cache.
    """
    command = [str(flaml_python(folder)), str(_ROOT / "bench" / "flaml_runner.py")]
    surroundings = {**os.environ, "PYTHONPATH": str(_ROOT), "NO_PROXY": "127.0.0.1"}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=surroundings,
    ) as process:
        try:
            yield Flaml(name, process, prune=prune, checked=checked)
        finally:
            process.terminate()


def flaml_python(folder: Path | None = None) -> Path:
    """The Python of FLAML's environment, made at the first use with whatever pip is configured to install from.

    Raises:
        RuntimeError: pip cannot install it; the message ends with what pip says.
    """
    digest = hashlib.sha256(" ".join((sys.version, *FLAML)).encode()).hexdigest()[:12]
    home = (folder or user_cache_path("selfreg") / "bench") / f"flaml-{digest}"
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = home / "ready"
    if not ready.exists():
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *FLAML],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pip could not install {' '.join(FLAML)}: {done.stderr.strip()[-500:]}")
        ready.touch()
    return python


def random_search() -> FullEvaluations:
    """Random search without pruning, n on a log scale."""
    return FullEvaluations("random", _Random)


def tpe() -> FullEvaluations | None:
    """Optuna's TPE without pruning, n on a log scale; None where Optuna is not installed."""
    return FullEvaluations("Optuna TPE", _Tpe) if find_spec("optuna") else None
