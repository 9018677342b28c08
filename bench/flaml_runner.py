"""Runs FLAML's tuner, in the environment that `bench.tune_peers` makes: a JSON job per line in, a JSON result per line out.

Each job runs in a fork of its own, since FLAML keeps its state in classes.
"""

import json
import logging
import math
import multiprocessing
import os
import sys
import threading
import time
import traceback
import warnings

if __name__ == "__main__":  # FLAML prints to standard output: that goes where errors go
    _RESULTS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

warnings.simplefilter("ignore")

import openai  # noqa: E402
from flaml import tune  # noqa: E402
from flaml.autogen.oai import completion  # noqa: E402

from bench.replay_scores import value  # noqa: E402


class _Kept(dict):
    """FLAML's cache of responses, in memory: it opens a database file for every single call."""

    def set(self, key, response):
        self[key] = response


_KEPT = _Kept()


class _Cache:
    def __init__(self, path):
        """Whatever the path, a job has one cache."""

    def __enter__(self):
        return _KEPT

    def __exit__(self, *_):
        """Nothing to close."""


class _Unpruned(completion.ChatCompletion):
    """Every configuration evaluated in full, and worth nothing if that cost more than the budget per request."""

    @classmethod
    def _eval(cls, config, prune=True, eval_only=False):
        result = super()._eval(config, prune=False, eval_only=eval_only)
        if "inference_cost" in result and result["cost"] / len(cls.data) > cls.inference_budget:
            result[cls._metric] = 0
        return result


def _text(context):
    return context["text"]


def _cost(trial):
    """Mean USD of a request of a configuration that was evaluated in full, infinite for others."""
    return (trial.last_result or {}).get("inference_cost", math.inf)


def run(line):
    """One job to its result."""
    job = json.loads(line)
    try:
        return _tune(job)
    except Exception:
        return {"error": traceback.format_exc()}


def _tune(job):
    openai.api_key, openai.api_base = "replay", job["url"]
    completion.diskcache.Cache = _Cache
    tuner = completion.ChatCompletion if job["prune"] else _Unpruned
    completion.Completion.price1K = {model: tuple(price) for model, price in job["prices"].items()}
    metric = job["metric"]
    _, analysis = tuner.tune(
        data=job["problems"],
        metric=metric,
        mode="max",
        eval_func=lambda responses, answer, **_: {metric: value(metric, responses, answer)},
        inference_budget=job["per_request"],
        optimization_budget=job["total"],
        num_samples=-1,
        logging_level=logging.ERROR,
        model=sorted(job["prices"]),
        messages=[[{"role": "system", "content": each}, {"role": "user", "content": _text}] for each in job["systems"]],
        temperature=tune.uniform(0, 1),
        n=tune.randint(1, job["samples"] + 1),
        max_tokens=job["longest"],
    )
    config = analysis.best_config  # what tune() returns, whatever it costs
    if job["checked"]:
        kept = [each for each in analysis.trials if _cost(each) <= job["per_request"]]
        config = max(kept, key=lambda each: each.last_result[metric]).config if kept else config
    params = tuner._get_params_for_create(config)
    chosen = {
        "model": params["model"],
        "prompt": config["messages"],
        "temperature": params["temperature"],
        "n": int(params["n"]),
        "max_tokens": int(params["max_tokens"]),
    }
    return {
        "chosen": chosen,
        "spent": tuner._total_cost,
        "tried": sum(bool(each.last_result) for each in analysis.trials),
        "scored": sum(math.isfinite(_cost(each)) for each in analysis.trials),
    }


def _work(line, say, parent):
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    say.send(run(line))


def _end_with(parent):
    """Leave when nobody waits for the result any more: FLAML would ask a server that is gone for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _serve():
    fork, starter = multiprocessing.get_context("fork"), os.getppid()
    for line in sys.stdin:
        hear, say = fork.Pipe(duplex=False)
        worker = fork.Process(target=_work, args=(line, say, os.getpid()), daemon=True)
        worker.start()
        say.close()
        while not hear.poll(0.5):
            if os.getppid() != starter:
                return
        try:
            done = hear.recv()
        except EOFError:
            done = {"error": "the job's process ended"}
        worker.join()
        _RESULTS.write(json.dumps(done) + "\n")
        _RESULTS.flush()


if __name__ == "__main__":
    _serve()
