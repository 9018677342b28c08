"""One worker process of F1 on the whole stack: eight threads or tasks that call a provider until the budget refuses.

Run as ``python -m tests.faults.paying JSON``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

from selfreg_sdk.booking import Books, CallSpec
from selfreg_sdk.cache import ResponseCache
from selfreg_sdk.calls import Calls, Retry
from selfreg_sdk.client import Client
from selfreg_sdk.errors import BudgetExceeded
from selfreg_sdk.money import Budget
from selfreg_sdk.prices import PriceOverride, Prices
from selfreg_sdk.store import Store
from tests.faults.processes import start_python
from tests.faults.spending import METERS

MAX_TOKENS = 400
WORKERS = 8
PAYLOAD = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "x" * 2000}],  # the echo of it fills max_tokens
    "max_tokens": MAX_TOKENS,
}
SPEC = CallSpec(model="fake-model", payload=PAYLOAD, max_tokens=MAX_TOKENS)
RATES = ("0.01", "1.60")
"""USD per million tokens: with the prompt this cheap a call costs nearly its worst case, and every surplus call shows."""
PRICE = PriceOverride(input_usd_per_mtok=Decimal(RATES[0]), output_usd_per_mtok=Decimal(RATES[1]))


def books(store: Store, *, meter: str, cap: str, base_url: str) -> Books:
    """The books of one process on the shared store."""
    return Books(
        meter=METERS[meter](store),
        prices=Prices({"fake-model": PRICE}),
        cache=ResponseCache(store),
        budgets={"shared": Budget.parse(f"{cap} USD")},
        base_url=base_url,
    )


def pay_until_refused(calls: Calls, client: Client) -> int:
    """Call until the budget refuses; returns the number of answers."""
    for answered in range(1000):
        try:
            calls.complete(replace(SPEC, request_id=f"r{answered}"), client)
        except BudgetExceeded:
            return answered
    raise AssertionError("the budget never refused")


async def apay_until_refused(calls: Calls, client: Client) -> int:
    """The same on an event loop."""
    for answered in range(1000):
        try:
            await calls.acomplete(replace(SPEC, request_id=f"r{answered}"), client)
        except BudgetExceeded:
            return answered
    raise AssertionError("the budget never refused")


async def in_tasks(calls: Calls, client: Client) -> list[int | str]:
    """What eight tasks on one loop say."""

    async def work() -> int | str:
        try:
            return await apay_until_refused(calls, client)
        except Exception as error:
            return repr(error)

    async with client:
        return await asyncio.gather(*(work() for _ in range(WORKERS)))


def in_threads(calls: Calls, client: Client) -> list[int | str]:
    """What eight threads say."""
    outcomes: list[int | str] = []

    def work() -> None:
        try:
            outcomes.append(pay_until_refused(calls, client))
        except Exception as error:
            outcomes.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def start_payer(arguments: dict[str, Any]) -> subprocess.Popen[str]:
    """A worker process; it says "ready" and starts to pay when it reads a line."""
    return start_python("-m", "tests.faults.paying", json.dumps(arguments))


def main() -> None:
    given = json.loads(sys.argv[1])
    with Store.open(given["store"]) as store, Client(base_url=given["base_url"]) as client:
        kept = books(store, meter=given["meter"], cap=given["cap"], base_url=given["base_url"])
        calls = Calls(kept, retry=Retry(first_wait=0.01, longest_wait=0.02))
        print("ready", flush=True)
        sys.stdin.readline()
        outcomes = asyncio.run(in_tasks(calls, client)) if given["tasks"] else in_threads(calls, client)
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
