"""LLM calls that regulate themselves: decoding settings planned, tuned under a budget, or learned token by token.

Names load on first use, so that importing the package costs next to nothing.
"""

from typing import TYPE_CHECKING

import policies

if not getattr(policies, "SELFREG", False):
    raise ImportError(
        f"another module named 'policies' hides selfreg's: {getattr(policies, '__file__', policies)!r}; "
        "rename that file or folder, or take its place off the import path"
    )

from policies.lazy import lazy_exports

if TYPE_CHECKING:
    from policies import (
        Adjustment,
        Aggregation,
        Bounds,
        Capabilities,
        ChainPolicy,
        DecodingParams,
        LearnedPolicy,
        Plan,
        PlannedPolicy,
        Policy,
        StaticPolicy,
        TunedPolicy,
    )
    from selfreg_sdk.calls import Retry
    from selfreg_sdk.chat_model import ChatSelfReg
    from selfreg_sdk.config import Settings, load_settings
    from selfreg_sdk.errors import BudgetExceeded, ConfigError, ProviderError, SelfregError
    from selfreg_sdk.langchain.init_model import init_chat_model
    from selfreg_sdk.langchain.regulate import regulate
    from selfreg_sdk.langchain.runnables import with_selfreg
    from selfreg_sdk.langchain.tuned import tuned_prompt
    from selfreg_sdk.middleware import BudgetMiddleware, SelfRegulationMiddleware
    from selfreg_sdk.money import Budget
    from selfreg_sdk.prices import PriceOverride, Prices
    from selfreg_sdk.tuner.eval_task import Evaluation, aeval_task, eval_task
    from selfreg_sdk.tuner.study.results import Tuned
    from selfreg_sdk.tuner.tune import atune, tune
    from selfreg_sdk.usage import Usage
    from selfreg_sdk.wire.connection import Timeouts

__version__ = "0.1.0"

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "policies": (
            "Adjustment",
            "Aggregation",
            "Bounds",
            "Capabilities",
            "ChainPolicy",
            "DecodingParams",
            "LearnedPolicy",
            "Plan",
            "PlannedPolicy",
            "Policy",
            "StaticPolicy",
            "TunedPolicy",
        ),
        "selfreg_sdk.calls": ("Retry",),
        "selfreg_sdk.chat_model": ("ChatSelfReg",),
        "selfreg_sdk.config": ("Settings", "load_settings"),
        "selfreg_sdk.wire.connection": ("Timeouts",),
        "selfreg_sdk.errors": ("BudgetExceeded", "ConfigError", "ProviderError", "SelfregError"),
        "selfreg_sdk.langchain.init_model": ("init_chat_model",),
        "selfreg_sdk.langchain.regulate": ("regulate",),
        "selfreg_sdk.langchain.runnables": ("with_selfreg",),
        "selfreg_sdk.langchain.tuned": ("tuned_prompt",),
        "selfreg_sdk.middleware": ("BudgetMiddleware", "SelfRegulationMiddleware"),
        "selfreg_sdk.money": ("Budget",),
        "selfreg_sdk.prices": ("PriceOverride", "Prices"),
        "selfreg_sdk.tuner.eval_task": ("Evaluation", "aeval_task", "eval_task"),
        "selfreg_sdk.tuner.study.results": ("Tuned",),
        "selfreg_sdk.tuner.tune": ("atune", "tune"),
        "selfreg_sdk.usage": ("Usage",),
    },
)

__all__ = [
    "Adjustment", "Aggregation", "Bounds", "Budget", "BudgetExceeded", "BudgetMiddleware", "Capabilities", "ChainPolicy",
    "ChatSelfReg", "ConfigError", "DecodingParams", "Evaluation", "LearnedPolicy", "Plan", "PlannedPolicy", "Policy", "PriceOverride",
    "Prices", "ProviderError", "Retry", "SelfRegulationMiddleware", "SelfregError", "Settings", "StaticPolicy", "Timeouts",
    "Tuned", "TunedPolicy", "Usage", "aeval_task", "atune", "eval_task", "init_chat_model", "load_settings", "regulate",
    "tune",
    "tuned_prompt", "with_selfreg",
]  # fmt: skip
