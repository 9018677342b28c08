"""The sweep's table, and the five properties it has to show. Stdlib only.

Cells of one family share prompts and seeds, so differences are paired and their errors small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

Setting = tuple[float, float]
"""(temperature, top_p)"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One family at one setting.

    Attributes:
        scores: for each prompt, the score of its n samples under the family's aggregation.
        accepted: share of single samples that the checker accepts.
    """

    family: str
    aggregation: str
    temperature: float
    top_p: float
    scores: tuple[float, ...]
    accepted: float

    @property
    def setting(self) -> Setting:
        """(temperature, top_p)."""
        return self.temperature, self.top_p

    @property
    def mean(self) -> float:
        """Mean score over prompts."""
        return fmean(self.scores)


@dataclass(frozen=True, kw_only=True)
class Property:
    """One thing the sweep has to show, and whether it does."""

    text: str
    passed: bool
    detail: str


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two values."""
    return stdev(values) / math.sqrt(len(values))


class Table:
    """A sweep's cells by family and setting."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = tuple(cells)
        self.families: dict[str, dict[Setting, Cell]] = {}
        for cell in cells:
            self.families.setdefault(cell.family, {})[cell.setting] = cell
        grids = [set(by_setting) for by_setting in self.families.values()]
        self.settings = sorted(set.intersection(*grids)) if grids else []
        if not self.settings:
            raise ValueError("the sweep has no setting that every family was measured at; run it again, whole")

    def best(self, family: str, prompts: slice = slice(None)) -> Cell:
        """The family's best cell on some of its prompts; among equals the coldest, then the widest nucleus."""
        cells = self.families[family].values()
        return max(cells, key=lambda c: (fmean(c.scores[prompts]), -c.temperature, c.top_p))

    def best_static(self, prompts: slice = slice(None)) -> Setting:
        """The one setting with the highest mean over families."""
        return max(
            self.settings,
            key=lambda s: (fmean(fmean(f[s].scores[prompts]) for f in self.families.values()), -s[0]),
        )

    def gap(self) -> tuple[float, float, float]:
        """What the per-family oracle gains over the best single static setting, in the mean over families.

        Returns:
            The gain, its paired standard error, and the gain when settings are picked on one half of the prompts
            and measured on the other, which removes the advantage of picking and measuring on the same ones.
        """
        static = self.best_static()
        gains, variance = [], 0.0
        for family, cells in self.families.items():
            pairs = zip(self.best(family).scores, cells[static].scores, strict=True)
            paired = [a - b for a, b in pairs]
            gains.append(fmean(paired))
            variance += standard_error(paired) ** 2
        halves = slice(0, None, 2), slice(1, None, 2)
        crossed = []
        for pick, judge in (halves, halves[::-1]):
            static = self.best_static(pick)
            for family, cells in self.families.items():
                oracle = cells[self.best(family, pick).setting].scores[judge]
                crossed.append(fmean(oracle) - fmean(cells[static].scores[judge]))
        return fmean(gains), math.sqrt(variance) / len(gains), fmean(crossed)

    def properties(self) -> list[Property]:
        """The five properties, each with its figures."""
        best = {family: self.best(family) for family in self.families}
        plain = {family: cells[1.0, 1.0].accepted for family, cells in self.families.items()}
        inside = [family for family, share in plain.items() if 0.3 <= share <= 0.9]
        ends = sorted(best.values(), key=lambda cell: cell.temperature)
        spread = ends[-1].temperature - ends[0].temperature
        beaten = {}
        for family, cells in self.families.items():
            paired = [a - b for a, b in zip(best[family].scores, cells[0.0, 1.0].scores, strict=True)]
            if fmean(paired) > 2 * standard_error(paired):
                beaten[family] = f"{family} +{fmean(paired):.3f} ± {standard_error(paired):.3f}"
        gain, error, crossed = self.gap()
        static = self.best_static()
        return [
            Property(
                text="every family's best setting scores at least .6",
                passed=all(cell.mean >= 0.6 for cell in best.values()),
                detail=", ".join(f"{f} {c.mean:.3f} ± {standard_error(c.scores):.3f}" for f, c in best.items()),
            ),
            Property(
                text="at least four families between .3 and .9 for one sample at T=1, top_p=1",
                passed=len(inside) >= 4,
                detail=", ".join(f"{family} {share:.3f}" for family, share in plain.items()),
            ),
            Property(
                text="best static temperatures of two families differ by at least .7",
                passed=spread >= 0.7 - 1e-9,
                detail=f"{ends[0].family} {ends[0].temperature:g}, {ends[-1].family} {ends[-1].temperature:g}",
            ),
            Property(
                text="greedy is not best for at least two families (by more than 2 standard errors)",
                passed=len(beaten) >= 2,
                detail=", ".join(beaten.values()) or "none",
            ),
            Property(
                text="the per-family oracle beats the best single static setting by at least .05",
                passed=min(gain, crossed) >= 0.05,
                detail=f"+{gain:.3f} ± {error:.3f} over T={static[0]:g}, top_p={static[1]:g}; "
                f"picked and measured on different prompts +{crossed:.3f}",
            ),
        ]

    def markdown(self) -> str:
        """The whole table with its properties, for reading."""
        parts = [
            "# Sweep of the embedded model",
            "Mean score on held-out test prompts ± standard error, per family under its own aggregation, by "
            "temperature and top_p. `one` is the share of single samples the checker accepts at top_p = 1. "
            "Made by `python -m local_backend.tiny sweep`.",
        ]
        rows = ["| property | | figures |", "|---|---|---|"]
        rows += [f"| {p.text} | {'PASS' if p.passed else 'FAIL'} | {p.detail} |" for p in self.properties()]
        parts.append("\n".join(rows))
        for family, cells in self.families.items():
            some = next(iter(cells.values()))
            best = self.best(family)
            tops = sorted({top_p for _, top_p in cells})
            lines = [
                f"## {family} ({some.aggregation}, {len(some.scores)} prompts)\n",
                f"Best: T={best.temperature:g}, top_p={best.top_p:g}.\n",
                "| T | " + " | ".join(f"top_p {top_p:g}" for top_p in tops) + " | one |",
                "|---" * (len(tops) + 2) + "|",
            ]
            for temperature in sorted({t for t, _ in cells}):
                at = [cells.get((temperature, top_p)) for top_p in tops]
                shown = [f"{c.mean:.3f} ± {standard_error(c.scores):.3f}" if c else "" for c in at]
                lines.append(
                    f"| {temperature:g} | " + " | ".join(shown) + f" | {cells[temperature, 1.0].accepted:.3f} |"
                )
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"

    def save(self, path: Path) -> None:
        """Write the cells as JSON and, beside them, the table as markdown."""
        rows: list[dict[str, Any]] = [asdict(cell) for cell in self.cells]
        for row in rows:
            row["scores"] = [round(score, 4) for score in row["scores"]]
            row["accepted"] = round(row["accepted"], 4)
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
        path.with_name(path.stem.upper() + ".md").write_text(self.markdown())

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read what `save` wrote."""
        rows = json.loads(path.read_text())
        return cls([Cell(**{**row, "scores": tuple(row["scores"])}) for row in rows])
