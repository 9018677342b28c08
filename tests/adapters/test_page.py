"""The committed page is what the installed packages do."""

from __future__ import annotations

import pytest

from policies import FIELDS
from selfreg_sdk.adapters import Adapter
from tests.adapters.packages import PACKAGES, Package
from tests.adapters.table import COMMAND, NOWHERE, PAGE, WANTED, Capture, page, paths
from tests.sdk.regulated import record, wanting


@pytest.mark.filterwarnings("ignore")  # what the integrations warn of is theirs
def test_the_page_shows_what_arrives() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"run: {COMMAND}"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_what_an_integration_cannot_carry_is_ignored_and_said_so(package: Package) -> None:
    with Capture(package) as capture:
        refused = sorted(Adapter(capture.model).refused & set(FIELDS))
        said = record(capture.regulated(**wanting(**{field: WANTED[field] for field in refused})).invoke("hello"))
        ignored = [(change["field"], change["why"]) for change in said["ignored"]]
        assert sorted(ignored) == [(field, "capability") for field in refused]
        assert (said["sent"], said["rejected"]) == ({}, [])
        assert [dict(paths(body)) for body in capture.server.bodies] == [dict(paths(capture.plain))] * 2


def test_the_page_tells_packages_apart() -> None:
    """The companion: a page of nothing but paths, or of none, would not pass."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(FIELDS)
    cells = {row.split(" | ")[0].strip("| `"): row.strip(" |").split(" | ")[1:] for row in rows}
    assert NOWHERE not in cells["temperature"]
    assert cells["max_tokens"][:2] == ["`max_completion_tokens`", "`max_output_tokens`"]
    assert cells["seed"].count(NOWHERE) == 3
