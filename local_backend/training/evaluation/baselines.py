"""What heads are compared with. The comparison is built to be hard on them.

Every rule that has a number is tuned on validation prompts over its whole grid. The per-task oracle picks the best fixed setting of
each task on the very prompts it is judged on. Heads whose decisions are no better than their own mean are found out by the constant
at that mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice, product
from typing import Literal

from local_backend.training.evaluation.evaluate import Result, best_of_each, oracle

Where = Literal["validation", "test", "full test"]
"""Validation prompts; test prompts; test prompts with all the samples of the report."""
Measure = Callable[[Where, Sequence[str]], list[Result]]
"""Measures settings, as `Sampler.parse` reads them."""

STATIC = (
    "temperature=0",
    *(
        f"temperature={heat:g},top_p={mass:g}"
        for heat, mass in product((0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6), (0.9, 0.95, 1.0))
    ),
)
"""The fixed settings that a user would try; the same grid as the embedded model's sweep."""
RULES: Mapping[str, tuple[str, ...]] = {
    "EDT": tuple(f"edt={base:g}:{theta:g}" for base, theta in product((0.5, 1.0, 1.5, 2.0), (0.1, 0.3, 1.0))),
    "min-p": tuple(f"temperature={heat:g},min_p={p:g}" for heat, p in product((0.5, 1.0, 1.5, 2.0), (0.05, 0.1, 0.2))),
    "top-n-sigma": tuple(
        f"top_n_sigma={n:g},temperature={heat:g}" for heat, n in product((0.5, 1.0, 1.5, 2.0), (0.5, 1.0, 1.5))
    ),
    "p-less": tuple(f"temperature={heat:g},p_less" for heat in (0.5, 1.0, 1.5, 2.0)),
}
"""Rules that adapt to the distribution without training, each with the settings it is tuned over."""
GREEDY, DEFAULT, CLOSED_FORM = "temperature=0", "temperature=1,top_p=1", "t_star"
BEST, ORACLE, MEAN = "best static", "per-task oracle", "constant at the heads' mean"


def baselines(
    measure: Measure,
    *,
    mean: tuple[float, float],
    static: Sequence[str] = STATIC,
    rules: Mapping[str, Sequence[str]] = RULES,
) -> list[Result]:
    """Everything that needs no training, on the full test; the name of a tuned one says its setting.

    Args:
        measure: of the prompts and samples to compare on.
        mean: mean T and mean P of the heads.
        static: fixed settings to choose from, for one setting of all tasks and for one of each.
        rules: settings of other rules to choose from.
    """
    grids = {BEST: static, **rules}
    # All in one go, so that they can be measured side by side.
    tried = iter(measure("validation", [setting for grid in grids.values() for setting in grid]))
    chosen = {name: _best(list(islice(tried, len(grid)))) for name, grid in grids.items()}
    picks = sorted({each.name for each in best_of_each(measure("test", static)).values()})
    constant = f"temperature={mean[0]:.2f},top_p={mean[1]:.2f}"
    settings = {
        "greedy": GREEDY,
        "default": DEFAULT,
        BEST: chosen.pop(BEST),
        MEAN: constant,
        "T*(logits)": CLOSED_FORM,
        **chosen,
    }
    measured = {each.name: each for each in measure("full test", list(dict.fromkeys([*settings.values(), *picks])))}
    named = [Result(name=f"{name} ({setting})", tasks=measured[setting].tasks) for name, setting in settings.items()]
    return [*named, oracle([measured[each] for each in picks], ORACLE)]


def _best(results: Sequence[Result]) -> str:
    """The setting with the best mean over tasks; the first of equals."""
    return max(results, key=lambda result: result.score).name
