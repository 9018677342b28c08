"""The vocabulary and the decisions: what may be asked of a model, and what is asked.

Pure: standard library and pydantic; no I/O, no clock, no torch, no LangChain. Users import these names from ``selfreg_sdk``.
"""

from typing import TYPE_CHECKING

from policies.lazy import lazy_exports

if TYPE_CHECKING:
    from policies.base import Facts, HeadBounds, PlanFact, Policy, Proposal, TunedFact
    from policies.capabilities import Capabilities
    from policies.chain import ChainPolicy, default_chain
    from policies.compile import Allowance, Compiled, compile_params, wire_fields
    from policies.learned import LearnedPolicy
    from policies.model_rules import resolve
    from policies.params import FIELDS, Adjustment, Bounds, DecodingParams, Interval, merge, parse_params
    from policies.plan import CHOICES, PLAN_MARKER, Plan, plan_json_schema
    from policies.planned import PlannedPolicy
    from policies.static import StaticPolicy
    from policies.task import Aggregation, TaskKey, task_key
    from policies.tuned import TunedPolicy

SELFREG = True
"""Tells this package from any other importable module of the same generic name."""

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "policies.base": (
            "Facts",
            "HeadBounds",
            "PlanFact",
            "Policy",
            "Proposal",
            "TunedFact",
        ),
        "policies.capabilities": ("Capabilities",),
        "policies.chain": (
            "ChainPolicy",
            "default_chain",
        ),
        "policies.compile": (
            "Allowance",
            "Compiled",
            "compile_params",
            "wire_fields",
        ),
        "policies.learned": ("LearnedPolicy",),
        "policies.model_rules": ("resolve",),
        "policies.params": (
            "FIELDS",
            "Adjustment",
            "Bounds",
            "DecodingParams",
            "Interval",
            "merge",
            "parse_params",
        ),
        "policies.plan": (
            "CHOICES",
            "PLAN_MARKER",
            "Plan",
            "plan_json_schema",
        ),
        "policies.planned": ("PlannedPolicy",),
        "policies.static": ("StaticPolicy",),
        "policies.task": (
            "Aggregation",
            "TaskKey",
            "task_key",
        ),
        "policies.tuned": ("TunedPolicy",),
    },
)

__all__ = [
    "CHOICES", "FIELDS", "PLAN_MARKER", "SELFREG", "Adjustment", "Aggregation", "Allowance", "Bounds", "Capabilities",
    "ChainPolicy", "Compiled", "DecodingParams", "Facts", "HeadBounds", "Interval", "LearnedPolicy", "Plan", "PlanFact",
    "PlannedPolicy", "Policy", "Proposal", "StaticPolicy", "TaskKey", "TunedFact", "TunedPolicy", "compile_params",
    "default_chain", "merge", "parse_params", "plan_json_schema", "resolve", "task_key", "wire_fields",
]  # fmt: skip
