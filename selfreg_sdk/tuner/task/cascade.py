"""A cascade as a task file asks for it: `cascade: agreement`, or the filter in full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from selfreg_sdk.errors import ConfigError
from selfreg_sdk.tuner.task.filters import AgreementFilter, Filter, FilterField, FilterSpec, PythonFilter
from selfreg_sdk.tuner.task.metric import Reference
from selfreg_sdk.tuner.task.strict import Strict


class CascadeSpec(Strict):
    """Look for a cascade, too: a configuration, and a second one where a filter does not let the first one's answer pass."""

    filter: FilterField = Field(description="What lets an answer pass.")

    def check(self, *, most: int, folder: Path) -> None:
        """Whether it can be used, as far as that can be told without running code of the user's.

        Args:
            most: samples that a configuration of the task may take.
            folder: of the task file.

        Raises:
            ConfigError: a schema, pattern or test is wrong, or there is nothing to agree.
        """
        if isinstance(self.filter, AgreementFilter) and most < 2:
            raise ConfigError(
                "cascade: the filter 'agreement' compares several samples, but the task takes one; take another filter, or a "
                "metric like vote, with n above 1"
            )
        if not isinstance(self.filter, PythonFilter):
            Filter(self.filter, folder=folder)


def _in_full(value: object) -> object:
    """A filter's name alone, 'module:function', or a filter in full stand for the cascade with it."""
    if isinstance(value, str) or (isinstance(value, Mapping) and "kind" in value and "filter" not in value):
        return {"filter": value}
    return value


CascadeField = Annotated[
    CascadeSpec,
    BeforeValidator(
        _in_full,
        json_schema_input_type=Literal["agreement", "json_schema", "code"] | Reference | FilterSpec | CascadeSpec,
    ),
]
