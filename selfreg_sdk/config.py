"""Settings: a YAML file < environment variables SELFREG_* < arguments.

The file is ``selfreg.yaml`` in the working folder, else ``selfreg.yaml`` in the user's configuration folder. The pair
OPENAI_API_KEY and OPENAI_BASE_URL serves as a last resort, and only as a pair: a key for OpenAI is never sent to
an endpoint that was configured elsewhere.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from platformdirs import user_config_path
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from selfreg_sdk.endpoint import parse_base_url
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.money import Budget

FILE_NAME = "selfreg.yaml"


class Settings(BaseSettings):
    """What a program or a user sets once. Read it with ``load_settings``, which explains what is wrong."""

    model_config = SettingsConfigDict(
        env_prefix="SELFREG_", extra="forbid", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    model: str | None = Field(default=None, description="Model name, as the provider spells it.")
    planner_model: str | None = Field(default=None, description="Model for planning calls; default: the same model.")
    base_url: str | None = Field(default=None, description="OpenAI-compatible endpoint; default: api.openai.com.")
    api_key: SecretStr | None = Field(default=None, description="Sent to base_url only; never stored or logged.")
    budget: Budget | None = Field(default=None, description="Hard cap, like '2.00 USD' or '0.50 USD/day'.")
    budget_name: str = Field(default="default", min_length=1, description="Calls with one name share one cap.")
    store: str | None = Field(default=None, description="File path, sqlite:///, :memory: or postgresql+psycopg://.")
    prices: Path | None = Field(default=None, description="YAML file with prices of your own.")
    store_content: bool = Field(default=False, description="Keep prompts and answers in the store.")
    transport: Literal["auto", "openai", "aiohttp"] = Field(
        default="auto", description="Library that speaks HTTP; auto takes aiohttp where it is installed."
    )
    connect_timeout: float = Field(default=10.0, gt=0, allow_inf_nan=False, description="Seconds to connect.")
    idle_timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False, description="Seconds between two chunks.")
    total_timeout: float = Field(default=600.0, gt=0, allow_inf_nan=False, description="Seconds for one request.")

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, value: object) -> object:
        """Read the short form; a YAML file may also hold a plain number, which keeps its decimals as written."""
        if isinstance(value, float):
            value = repr(value)
        return Budget.parse(value) if isinstance(value, str | int) else value

    @field_validator("base_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        """Refuse what is no http(s) URL."""
        if value is not None:
            parse_base_url(value)
        return value


def load_settings(*, file: Path | None = None, **arguments: Any) -> Settings:
    """Settings from file, environment and arguments; an argument that is None counts as not given.

    Args:
        file: this file instead of the usual places; it must exist.

    Raises:
        ConfigError: the file cannot be read, a key is not known (names the nearest one), or a value is wrong.
    """
    source = file if file is not None else _usual_file()
    from_file = {} if source is None else _read(source)
    given = {name: value for name, value in arguments.items() if value is not None}
    _check_names(given, "argument")
    try:
        environment = EnvSettingsSource(Settings)()
        values: dict[str, Any] = {**from_file, **environment, **given}
        if values.get("base_url") is None and values.get("api_key") is None:
            values["base_url"] = os.environ.get("OPENAI_BASE_URL") or None
            values["api_key"] = os.environ.get("OPENAI_API_KEY") or None
        elif values.get("api_key") is None and _is_openai(values["base_url"]):
            values["api_key"] = os.environ.get("OPENAI_API_KEY") or None
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        origin = _origin(name, given, environment, from_file, source)
        raise ConfigError(f"{origin} {name!r}: {first['msg'].removeprefix('Value error, ')}") from None


def _usual_file() -> Path | None:
    places = (Path.cwd() / FILE_NAME, user_config_path("selfreg", appauthor=False) / FILE_NAME)
    return next((place for place in places if place.is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"settings file {str(file)!r} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        # The text around the mistake may hold a key, so only its place is told.
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"settings file {str(file)!r}{place} is not valid YAML") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"settings file {str(file)!r} must hold a mapping like 'budget: 2.00 USD'")
    names = {str(name): value for name, value in content.items()}
    _check_names(names, f"settings file {str(file)!r}:")
    return names


def _check_names(values: dict[str, Any], where: str) -> None:
    for name in values:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(Settings.model_fields))}"
            raise ConfigError(f"{where} unknown setting {name!r}; {hint}")


def _origin(
    name: str, given: dict[str, Any], environment: dict[str, Any], from_file: dict[str, Any], source: Path | None
) -> str:
    if name in given:
        return "argument"
    if name in environment:
        return f"environment variable SELFREG_{name.upper()}, setting"
    if name in from_file:
        return f"settings file {str(source)!r}, setting"
    return "setting"


def _is_openai(base_url: str) -> bool:
    try:
        host = urlsplit(str(base_url)).hostname or ""
    except ValueError:
        return False
    return host == "openai.com" or host.endswith(".openai.com")
