from __future__ import annotations

import pickle
from decimal import Decimal
from pathlib import Path

import pytest

from selfreg_sdk.config import load_settings
from selfreg_sdk.errors import ConfigError
from selfreg_sdk.money import Budget


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no setting from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFREG_STORE", raising=False)
    return tmp_path


def test_everything_has_a_default() -> None:
    settings = load_settings()
    assert (settings.budget, settings.api_key, settings.base_url, settings.store) == (None, None, None, None)
    assert settings.store_content is False
    assert settings.budget_name == "default"


def test_arguments_win_over_environment_over_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "selfreg.yaml").write_text("model: file\nplanner_model: file\nbudget_name: file\n")
    monkeypatch.setenv("SELFREG_PLANNER_MODEL", "environment")
    monkeypatch.setenv("SELFREG_BUDGET_NAME", "environment")
    settings = load_settings(budget_name="argument", store=None)
    assert (settings.model, settings.planner_model, settings.budget_name) == ("file", "environment", "argument")


def test_the_file_of_the_user_counts_where_the_folder_has_none(folder: Path) -> None:
    users = folder / "xdg_config_home" / "selfreg" / "selfreg.yaml"
    users.parent.mkdir(parents=True)
    users.write_text("model: users\n")
    assert load_settings().model == "users"
    (folder / "selfreg.yaml").write_text("model: folders\n")
    assert load_settings().model == "folders"
    (folder / "other.yaml").write_text("model: named\n")
    assert load_settings(file=folder / "other.yaml").model == "named"


@pytest.mark.parametrize(
    ("written", "cap"), [("2.00 USD", "2.00"), ("2", "2"), ("0.1", "0.1"), ("'0.5 USD/day'", "0.5")]
)
def test_budgets_keep_the_decimals_as_written(folder: Path, written: str, cap: str) -> None:
    (folder / "selfreg.yaml").write_text(f"budget: {written}\n")
    budget = load_settings().budget
    assert budget is not None
    assert budget.cap == Decimal(cap)


def test_a_budget_object_is_taken_as_it_is() -> None:
    budget = Budget.parse("1 USD/month")
    assert load_settings(budget=budget).budget == budget


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("budgte: 2 USD\n", ("unknown setting 'budgte'", "'budget'")),
        ("zzz: 2\n", ("unknown setting 'zzz'", "known are")),
        ("budget: -2\n", ("'budget'", "-2", "negative")),
        ("base_url: not a url\n", ("'base_url'", "http://localhost")),
        ("idle_timeout: 0\n", ("'idle_timeout'", "greater than 0")),
        ("model: [1\n", ("line", "not valid YAML")),
        ("- model\n", ("must hold a mapping",)),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(folder: Path, content: str, words: tuple[str, ...]) -> None:
    (folder / "selfreg.yaml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    message = str(caught.value)
    assert all(word in message for word in (*words, "selfreg.yaml")), message


def test_a_wrong_variable_and_a_wrong_argument_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREG_TOTAL_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match="environment variable SELFREG_TOTAL_TIMEOUT"):
        load_settings()
    monkeypatch.delenv("SELFREG_TOTAL_TIMEOUT")
    with pytest.raises(ConfigError, match=r"argument 'budget': '1 EUR'"):
        load_settings(budget="1 EUR")
    with pytest.raises(ConfigError, match="did you mean 'base_url'"):
        load_settings(baseurl="http://localhost")


def test_a_file_that_is_named_must_exist(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_settings(file=folder / "none.yaml")


def test_the_pair_of_openai_is_used_as_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:4000/v1")
    settings = load_settings()
    assert settings.base_url == "http://localhost:4000/v1"
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-openai"


@pytest.mark.parametrize(
    ("base_url", "sent"),
    [
        ("http://localhost:8000/v1", False),
        ("https://api.openai.com.example.net/v1", False),
        ("https://api.openai.com/v1", True),
    ],
)
def test_a_key_for_openai_goes_to_nobody_else(monkeypatch: pytest.MonkeyPatch, base_url: str, sent: bool) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert (load_settings(base_url=base_url).api_key is not None) == sent


def test_a_key_of_our_own_goes_where_it_was_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREG_API_KEY", "sk-mine")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    key = load_settings(base_url="http://localhost:8000/v1").api_key
    assert key is not None
    assert key.get_secret_value() == "sk-mine"


def test_keys_are_never_shown(folder: Path) -> None:
    settings = load_settings(api_key="sk-canary", model="m")
    assert "sk-canary" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert pickle.loads(pickle.dumps(settings)) == settings

    (folder / "selfreg.yaml").write_text('api_key: "sk-canary\nmodel: x\n')
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "sk-canary" not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("wrong", [123, ["sk-canary"]])
def test_a_key_of_the_wrong_type_is_not_repeated(wrong: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(api_key=wrong)
    assert str(wrong) not in str(caught.value)
