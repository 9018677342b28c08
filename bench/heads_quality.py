"""What heads buy on the embedded model: six families mixed, each under its own aggregation, held-out prompts, several training seeds.

AutoDeco trained on the families' scores stands beside greedy, the provider's default, the best fixed setting of a validation sweep,
the oracle that may choose a fixed setting for each family on the test prompts themselves, the constant at the heads' own mean, the
closed form T*, EDT, min-p, top-n-sigma and p-less, each tuned on the same validation prompts, and AutoDeco trained as published.
A prompt's score under heads is the mean over their training seeds; intervals are over prompts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from platformdirs import user_cache_path

from bench.heads_work import Corpus, Kept, Measured, Trained
from bench.rows import Row, versions
from local_backend.training.evaluation.baselines import BEST, ORACLE, RULES, STATIC, Where, baselines
from local_backend.training.evaluation.evaluate import MEASURES, Result, difference

REWARD, CROSS_ENTROPY = "AutoDeco (reward)", "AutoDeco (cross-entropy)"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        seeds: of training.
        test: test prompts a family.
        validation: prompts a family that rules are tuned on.
        samples: samples a test prompt, the k of pass@k.
        steps: of training on the reward.
        corpus: prompts a family whose right answers the cross-entropy heads learn from.
        published_steps: of training on cross-entropy.
        static: fixed settings, the oracle's too.
        rules: settings of each other rule.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    test: int = 40
    validation: int = 24
    samples: int = 16
    steps: int = 30
    corpus: int = 120
    published_steps: int = 400
    static: tuple[str, ...] = STATIC
    rules: tuple[tuple[str, tuple[str, ...]], ...] = tuple(RULES.items())

    def heads(self) -> dict[str, list[Trained]]:
        """What is trained, by name."""
        return {
            REWARD: [Trained(seed=seed, steps=self.steps) for seed in self.seeds],
            CROSS_ENTROPY: [
                Trained(corpus=Corpus(prompts=self.corpus), seed=seed, steps=self.published_steps)
                for seed in self.seeds
            ],
        }

    def asked(self, where: Where, how: str | Trained) -> Measured:
        """A way to decode on some prompts."""
        if where == "validation":
            return Measured(split="validation", prompts=self.validation, samples=None, how=how)
        return Measured(
            split="test", prompts=self.test, samples=self.samples if where == "full test" else None, how=how
        )


QUICK = Plan(
    seeds=(0,),
    test=4,
    validation=2,
    samples=8,
    steps=6,
    corpus=12,
    published_steps=60,
    static=("temperature=0", "temperature=0.6,top_p=0.9", "temperature=1,top_p=1", "temperature=1.4,top_p=0.9"),
    rules=tuple((name, settings[:1]) for name, settings in RULES.items()),
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything on the test prompts.

    Attributes:
        heads: by name, one result for each training seed.
        others: the rest, by name; a tuned rule's name says its setting.
        samples: k of pass@k.
        training_seconds: processor time of one training on the reward.
    """

    heads: dict[str, list[Result]]
    others: list[Result]
    samples: int
    training_seconds: float


def run(quick: bool, *, jobs: int | None = None, cache: Path | None = None) -> list[Row]:
    """Rows of AutoDeco trained on the reward beside everything else."""
    plan = QUICK if quick else Plan()
    found = findings(plan, jobs=jobs or os.cpu_count() or 1, cache=cache or user_cache_path("selfreg") / "bench")
    print(
        f"heads_quality: training on the reward took {found.training_seconds:.0f} s of processor time a seed",
        file=sys.stderr,
    )
    return list(rows(found, plan.seeds))


def findings(plan: Plan, *, jobs: int, cache: Path) -> Findings:
    """Train, tune and measure; what is kept already is not made again."""
    kept = Kept(cache)
    trained = plan.heads()
    kept.make("sampling right answers", [Corpus(prompts=plan.corpus)], jobs)
    kept.make("training heads", [each for those in trained.values() for each in those], jobs)
    on_test = {name: [plan.asked("full test", each) for each in those] for name, those in trained.items()}
    kept.make("measuring heads", [each for those in on_test.values() for each in those], jobs)

    def measure(where: Where, settings: Sequence[str]) -> list[Result]:
        pieces = {setting: plan.asked(where, setting) for setting in settings}
        kept.make(f"measuring rules ({where})", pieces.values(), jobs)
        return [kept.result(piece, setting) for setting, piece in pieces.items()]

    means = [kept.outcome(each) for each in on_test[REWARD]]
    mean = fmean(each["temperature"] for each in means), fmean(each["top_p"] for each in means)
    return Findings(
        heads={name: [kept.result(each, name) for each in those] for name, those in on_test.items()},
        others=baselines(measure, mean=mean, static=plan.static, rules=dict(plan.rules)),
        samples=plan.samples,
        training_seconds=fmean(kept.outcome(each)["seconds"] for each in trained[REWARD]),
    )


def rows(found: Findings, seeds: tuple[int, ...]) -> Iterator[Row]:
    """The table: both kinds of heads beside all others, in every measure; then family by family and seed by seed."""
    ours, published = found.heads[REWARD], found.heads[CROSS_ENTROPY]
    best = next(each for each in found.others if each.name.startswith(BEST))
    ceiling = next(each for each in found.others if each.name == ORACLE)
    for metric in MEASURES:
        for peer in found.others:
            yield _row(REWARD, metric, ours, [peer], found.samples, seeds, promised=metric == "score")
        yield _row(REWARD, metric, ours, published, found.samples, seeds)
        yield _row(CROSS_ENTROPY, metric, published, [best], found.samples, seeds)
    for family in best.tasks:
        for peer in (best, ceiling):
            alone = [Result(name=each.name, tasks={family: each.tasks[family]}) for each in (*ours, peer)]
            yield _row(f"{REWARD}, {family}", "score", alone[:-1], alone[-1:], found.samples, seeds)
    for seed, each in zip(seeds, ours, strict=True):
        yield _row(f"{REWARD}, seed {seed}", "score", [each], [best], found.samples, (seed,))


def _row(
    case: str,
    metric: str,
    ours: Sequence[Result],
    peers: Sequence[Result],
    samples: int,
    seeds: tuple[int, ...],
    *,
    promised: bool = False,
) -> Row:
    """Means over seeds, families and prompts; the interval is of ours minus the peer's."""
    measure = MEASURES[metric]
    mine, theirs = (fmean(each.mean(measure) for each in those) for those in (ours, peers))
    _, low, high = difference(ours, peers, measure)
    name = peers[0].name
    static, above_all = promised and name.startswith(BEST), promised and name == ORACLE
    return Row(
        bench="heads_quality",
        case=case,
        metric=metric.replace("@k", f"@{samples}"),
        unit="tokens" if metric == "tokens" else "share",
        ours=mine,
        peer=theirs,
        peer_name=name,
        ratio=mine / theirs if theirs else float("inf"),
        low=low,
        high=high,
        n=sum(len(task.scores) for task in peers[0].tasks.values()),
        seeds=seeds,
        versions=versions("torch", "transformers"),
        target=1.0 if static or above_all else None,
        better="higher",
        above=0.0 if static else None,
    )
