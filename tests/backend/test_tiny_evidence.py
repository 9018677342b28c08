"""The sweep's table: the shipped one shows the five properties; made-up ones without them fail."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from local_backend import tiny
from local_backend.tiny.evidence import Cell, Table
from local_backend.tiny.families import FAMILIES
from local_backend.tiny.sweep import settings

SHIPPED = Path(tiny.__file__).with_name("sweep.json")


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.load(SHIPPED)


def test_the_shipped_sweep_is_whole(table):
    assert set(table.families) == set(FAMILIES)
    assert set(table.settings) == set(settings(quick=False))
    for name, cells in table.families.items():
        assert {cell.aggregation for cell in cells.values()} == {str(FAMILIES[name].aggregation)}
        assert len({len(cell.scores) for cell in cells.values()}) == 1


def test_the_shipped_sweep_shows_all_five_properties(table):
    assert [each.detail for each in table.properties() if not each.passed] == []
    gain, error, crossed = table.gap()
    assert gain - 2 * error >= 0.05
    assert crossed >= 0.05


def test_the_markdown_beside_it_is_of_the_same_sweep(table):
    assert SHIPPED.with_name("SWEEP.md").read_text() == table.markdown()


def test_a_table_survives_saving(table, tmp_path):
    table.save(tmp_path / "again.json")
    assert Table.load(tmp_path / "again.json").cells == table.cells
    assert (tmp_path / "AGAIN.md").read_text() == table.markdown()


def flat(table: Table, setting: tuple[float, float]) -> list[Cell]:
    """A world where every setting works as one does: nothing to regulate."""
    return [replace(cell, scores=table.families[cell.family][setting].scores) for cell in table.cells]


def test_a_world_with_nothing_to_regulate_fails_three_properties(table):
    verdicts = [each.passed for each in Table(flat(table, (1.0, 1.0))).properties()]
    assert verdicts[2:] == [False, False, False]


def test_weak_and_saturated_families_fail_the_first_two(table):
    weak = [replace(cell, scores=tuple(score / 2 for score in cell.scores)) for cell in table.cells]
    assert not Table(weak).properties()[0].passed
    saturated = [replace(cell, accepted=0.99) for cell in table.cells]
    assert not Table(saturated).properties()[1].passed


def test_a_gap_that_comes_from_noise_alone_fails(table):
    """Coin-toss scores: the plain oracle gains by picking what it is measured on, the crossed one does not."""
    random = Random(2)
    grid = table.settings
    cells = []
    for family in ("a", "b", "c"):
        for temperature, top_p in grid:
            scores = tuple(float(random.random() < 0.5) for _ in range(40))
            cells.append(
                Cell(
                    family=family,
                    aggregation="first",
                    temperature=temperature,
                    top_p=top_p,
                    scores=scores,
                    accepted=0.5,
                )
            )
    made_up = Table(cells)
    gain, _, crossed = made_up.gap()
    assert gain > 0.05 > crossed
    assert not made_up.properties()[4].passed


def test_a_sweep_without_a_common_setting_is_refused():
    cells = [
        Cell(family=f, aggregation="first", temperature=t, top_p=1.0, scores=(1.0, 0.0), accepted=0.5)
        for f, t in (("a", 0.0), ("b", 1.0))
    ]
    with pytest.raises(ValueError, match="no setting that every family"):
        Table(cells)
