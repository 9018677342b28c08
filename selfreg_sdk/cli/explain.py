"""``selfreg explain``: what would be sent, why, and at most at what cost."""

from __future__ import annotations

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
from selfreg_sdk.cli.output import JsonOption, StoreOption, out, print_json, settings_text, table


def explain(
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
    """Show what would be sent for a prompt, why, and at most at what cost. Sends nothing, spends nothing.

    Example: selfreg explain "Sum up this report: ..." --model gpt-4.1-mini --budget "2.00 USD"
    """
    llm = chat_model(
        model=model, base_url=base_url, server=server, budget=budget, prices=prices, store=store, params=param
    )
    found = llm.explain(prompt_text(prompt), selfreg_task=task, selfreg_aggregation=aggregation)
    if as_json:
        print_json(found.as_dict())
        return
    decision = found.decision
    out.print(f"task     {decision['task']}", markup=False)
    out.print(f"source   {decision['source']}" + (f", version {v}" if (v := decision["config_version"]) else ""))
    if found.would_plan:
        cost = "unknown cost" if found.plan_worst_case_usd is None else f"at most {found.plan_worst_case_usd} USD"
        out.print(f"plan     not stored yet: a planning call would come first ({cost}); without it:")
    elif found.plan_rests:
        out.print("plan     planning this task failed a short while ago and rests; until then:")
    elif decision["plan"]:
        out.print(f"plan     {settings_text(decision['plan'])}", markup=False)
    if decision["aggregation"] != "first":
        out.print(f"samples  {decision['aggregation']}, in at most {found.most_requests} requests", markup=False)
    out.print(f"planned  {settings_text(decision['planned'])}", markup=False)
    out.print(f"sent     {settings_text(decision['sent'])}", markup=False)
    worst = "unknown" if found.worst_case_usd is None else f"{found.worst_case_usd} USD"
    out.print(
        f"cost     at most {worst}" + (f" (price: {found.price_source})" if found.price_source else ""), markup=False
    )
    out.print(f"model    {', '.join(found.capability_sources)}", markup=False)
    if decision["ignored"]:
        rows = [
            [change[name] for name in ("field", "wanted", "sent", "why", "detail")] for change in decision["ignored"]
        ]
        table("Changed or not sent", ["field", "wanted", "sent", "why", "detail"], rows)
