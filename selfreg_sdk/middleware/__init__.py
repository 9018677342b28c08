"""Middleware for LangChain agents: `SelfRegulationMiddleware` goes last in the list, `BudgetMiddleware` first."""

try:
    import langchain.agents.middleware  # noqa: F401 - the check is that it is there
except ImportError as exc:
    raise ImportError("selfreg's agent middleware needs LangChain's agents: pip install 'selfreg[agents]'") from exc

from selfreg_sdk.middleware.budget import BudgetMiddleware
from selfreg_sdk.middleware.self_regulation import SelfRegulationMiddleware

__all__ = ["BudgetMiddleware", "SelfRegulationMiddleware"]
