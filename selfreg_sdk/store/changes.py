"""Which stored facts changed, so that every process notices what another one promoted, rolled back or learned.

One counter in the store. Whoever changes a fact raises it in the same transaction and writes the new number into the row; who
remembers facts compares the counter now and then, and reads the keys of the rows with a higher number.
"""

from __future__ import annotations

import sqlalchemy as sa

from selfreg_sdk.store.engine import Store
from selfreg_sdk.store.tables import metadata

Key = tuple[str, ...]
"""Names a fact: its table and what identifies it there."""

_NAME = "facts"
_counter = metadata.tables["generation"]
_pointers = metadata.tables["config_pointer"]
_learned = metadata.tables["learned_capability"]


def pointer_key(task_key: str, stage: str) -> Key:
    """The fact which version a task uses at a stage."""
    return ("pointer", task_key, stage)


def learned_key(endpoint: str, model: str) -> Key:
    """The fact what was learned of a model at an endpoint."""
    return ("learned", endpoint, model)


def count(store: Store, connection: sa.Connection) -> int:
    """Raise the counter inside the caller's transaction and return it, for the row that changes.

    On Postgres the counter's row stays locked to the end of the transaction, so numbers become visible in their order.
    """
    insert = store.insert_new(_counter).values(name=_NAME, number=0)
    connection.execute(insert)
    raised = sa.update(_counter).where(_counter.c.name == _NAME).values(number=_counter.c.number + 1)
    return int(connection.execute(raised.returning(_counter.c.number)).scalar_one())


def since(connection: sa.Connection, known: int | None) -> tuple[int, frozenset[Key] | None]:
    """The counter now, and the facts changed since it was ``known``; None: any may have."""
    # The counter first: a change committed between the two reads is then reported now and once more, never missed.
    number = int(connection.execute(sa.select(_counter.c.number).where(_counter.c.name == _NAME)).scalar() or 0)
    if known is None or number < known:  # below: a backup was put in place of the store
        return number, None
    if number == known:
        return number, frozenset()
    pointers = sa.select(_pointers.c.task_key, _pointers.c.stage).where(_pointers.c.generation > known)
    learned = sa.select(_learned.c.endpoint, _learned.c.model).where(_learned.c.generation > known)
    return number, frozenset(
        [pointer_key(task, stage) for task, stage in connection.execute(pointers)]
        + [learned_key(endpoint, model) for endpoint, model in connection.execute(learned)]
    )
