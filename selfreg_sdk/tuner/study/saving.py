"""The end of a study as versions in the store, where `ChatSelfReg` finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

from selfreg_sdk.store.configs import ConfigRecord, Configs
from selfreg_sdk.tuner.measuring.compare import Comparison
from selfreg_sdk.tuner.study.ballots import ballot_spec
from selfreg_sdk.tuner.study.cascade_check import CheckedCascade
from selfreg_sdk.tuner.study.plan import Plan
from selfreg_sdk.tuner.study.results import Candidate, Tuned
from selfreg_sdk.tuner.study.study import fingerprint
from selfreg_sdk.versions import tuned_key


def save_versions(
    configs: Configs,
    plan: Plan,
    *,
    endpoint: str,
    winner: Candidate,
    per_model: Mapping[str, Candidate],
    checked: Comparison | None,
    spent: Decimal,
    use: bool,
) -> dict[str, int]:
    """Add the best version of each model, and the winner as that of all models; what was added before is found again.

    Args:
        endpoint: where the models answered, without secrets.
        checked: the winner against the baseline on held-out examples.
        spent: USD that finding them cost.
        use: put the winner into production. The best of the other models, which nothing was checked of, stand in staging.

    Returns:
        Model to the id of its version.
    """
    versions: dict[str, int] = {}

    def add(key: str, candidate: Candidate, parent: int | None = None) -> int:
        chosen = candidate == winner
        record = _record(plan, key, candidate, endpoint, spent, checked if chosen else None, parent)
        return configs.add_once(record, same=lambda known: _same(known, record))

    own = str(winner.config["model"])
    for model, candidate in {**per_model, own: winner}.items():
        key = tuned_key(plan.spec.name, model)
        versions[model] = add(key, candidate)
        if use:
            configs.point(key, "production" if model == own else "staging", versions[model])
    best = add(tuned_key(plan.spec.name), winner, versions[own])
    if use:
        configs.point(tuned_key(plan.spec.name), "production", best)
    return versions


def save_cascade(
    configs: Configs,
    plan: Plan,
    *,
    endpoint: str,
    cascade: CheckedCascade,
    checked: Comparison,
    spent: Decimal,
    use: bool,
) -> int:
    """Add a cascade as the winner over all models; what was added before is found again. Arguments as of `save_versions`."""
    candidate, key = cascade.candidate, tuned_key(plan.spec.name)
    last = candidate.config.second
    alone = Candidate(
        config={**last.config, "prompt": candidate.prompt},
        aggregation=str(last.aggregation),
        score=candidate.expected.score,
        low=None,
        high=None,
        cost=candidate.expected.cost,
        cost_low=None,
        cost_high=None,
        keep=candidate.expected.keep,
        seconds=None,
        examples=candidate.expected.examples,
    )
    record = _record(plan, key, alone, endpoint, spent, checked, None)
    told = {"cascade": candidate.config.written(), "expected": asdict(candidate.expected)}
    record = replace(record, provenance={**record.provenance, **told})
    version = configs.add_once(record, same=lambda known: _same(known, record))
    if use:
        configs.point(key, "production", version)
    return version


def outcome_of(tuned: Tuned) -> dict[str, Any]:
    """What a study ended with, as JSON."""
    return {
        "verdict": tuned.verdict,
        "reason": tuned.reason,
        "winner": None if tuned.winner is None else _plain(tuned.winner),
        "frontier": [_plain(each) for each in tuned.frontier],
        "per_model": {model: _plain(each) for model, each in tuned.per_model.items()},
        "versions": dict(tuned.versions),
        "spent": str(tuned.spent),
        "ending": tuned.ending,
        "configurations": tuned.configurations,
        "notes": list(tuned.notes),
        "cascade": None if tuned.cascade is None else _told(tuned.cascade),
    }


def frontier_in(outcome: Mapping[str, Any] | None) -> tuple[Candidate, ...]:
    """The frontier that a finished study ended with; empty for one that did not end."""
    return tuple(Candidate(**each) for each in (outcome or {}).get("frontier", ()))


def _told(cascade: CheckedCascade) -> dict[str, Any]:
    candidate = cascade.candidate
    held_out = {"difference": cascade.beside.difference, "low": cascade.beside.low, "high": cascade.beside.high}
    told = {
        **candidate.config.written(),
        "expected": asdict(candidate.expected),
        "held_out": held_out,
        "used": cascade.used,
    }
    return dict(_finite(told))


def _plain(candidate: Candidate) -> dict[str, Any]:
    return {**asdict(candidate), "config": dict(candidate.config)}


def _record(
    plan: Plan,
    key: str,
    candidate: Candidate,
    endpoint: str,
    spent: Decimal,
    checked: Comparison | None,
    parent: int | None,
) -> ConfigRecord:
    config, spec = candidate.config, plan.spec
    prompt = plan.task.prompt(config["prompt"])
    provenance = {
        "kind": "tuned",
        "study": plan.study,
        "method": plan.method,
        "seed": spec.seed,
        "base_url": endpoint,
        "prompt": prompt.name,
        "messages": [list(message) for message in prompt.messages],
        "metric": spec.metric.name,
        "scorer": spec.metric.scorer.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "ballot": ballot_spec(plan.task),
        "examples": fingerprint(plan.task.examples),
        "expected": {name: value for name, value in _plain(candidate).items() if name not in ("config", "aggregation")},
    }
    if checked is not None:
        provenance["held_out"] = {
            "difference": checked.difference,
            "low": checked.low,
            "high": checked.high,
            "examples": checked.examples,
        }
    return ConfigRecord(
        task_key=key,
        model=str(config["model"]),
        aggregation=candidate.aggregation,
        params={name: value for name, value in config.items() if name not in ("model", "prompt")},
        provenance=_finite(provenance),
        score=candidate.score,
        score_low=candidate.low,
        score_high=candidate.high,
        cost_usd=spent,
        parent_id=parent,
    )


def _same(known: ConfigRecord, new: ConfigRecord) -> bool:
    """Whether a study left this version before."""
    if known.provenance.get("study") != new.provenance["study"]:
        return False
    if known.provenance.get("cascade") != new.provenance.get("cascade"):
        return False
    return (known.params, known.aggregation, known.model) == (new.params, new.aggregation, new.model)


def _finite(value: Any) -> Any:
    """JSON has no form for the end of an interval that reaches everywhere."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
