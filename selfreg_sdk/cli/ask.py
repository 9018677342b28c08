"""``selfreg ask``: one regulated answer from the command line."""

from __future__ import annotations

import typer

from selfreg_sdk.cli.model_options import (
    BaseUrl,
    Cap,
    How,
    Model,
    Params,
    PriceFile,
    Prompt,
    Server,
    Task,
    chat_model,
    prompt_text,
)
from selfreg_sdk.cli.output import JsonOption, StoreOption, err, print_json, settings_text


def ask(
    prompt: Prompt,
    model: Model = None,
    base_url: BaseUrl = None,
    server: Server = None,
    task: Task = None,
    aggregation: How = None,
    budget: Cap = None,
    prices: PriceFile = None,
    param: Params = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a prompt: plan or recall its configuration, send it, print the answer and what it cost.

    The key comes from OPENAI_API_KEY or SELFREG_API_KEY. Try it on the model that comes along:

    selfreg serve &  selfreg ask "Put \"green tea\" into Pig Latin." -m tiny --base-url http://127.0.0.1:8000/v1 --server selfreg
    """
    llm = chat_model(
        model=model, base_url=base_url, server=server, budget=budget, prices=prices, store=store, params=param
    )
    answer = llm.invoke(prompt_text(prompt), selfreg_task=task, selfreg_aggregation=aggregation)
    record = answer.response_metadata["selfreg"]
    if as_json:
        print_json({"answer": str(answer.text), "usage": answer.usage_metadata, "selfreg": record})
        return
    typer.echo(str(answer.text))
    cost = "unknown cost" if record["cost_usd"] is None else f"{record['cost_usd']} USD"
    votes = f" · {record['aggregation']}: {record['samples']} drawn" if "votes" in record else ""
    err.print(f"{record['source']}: {settings_text(record['sent'])} · {cost}{votes}", style="dim", markup=False)
