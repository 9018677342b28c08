"""The published config.json: the base's fields lying flat, the heads' beside them, and under `selfreg` what we add.

`selfreg` holds the base's identity and the recipe: everything that decided the heads in training. It is also kept in the
metadata of the weights, where it cannot come apart from them; there it counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from local_backend.checkpoint.errors import CheckpointError
from local_backend.checkpoint.identity import BaseIdentity
from local_backend.checkpoint.layouts import Contents
from local_backend.heads import HeadsConfig
from local_backend.hf_generate import NEUTRAL

ARCHITECTURE = "AutoDecoModelForCausalLM"
MODEL_TYPE = "autodeco"
RECORD = "selfreg"


def fields(
    config: HeadsConfig, *, model_type: str | None, base_name: str | None, record: Mapping[str, Any]
) -> dict[str, Any]:
    """What stands in config.json beside the base's own fields."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "base_model_type": model_type,
        "base_model_name_or_path": base_name,
        "enable_temperature_head": config.temperature,
        "enable_top_p_head": config.top_p,
        "use_enhanced_features": config.statistics,
        "temperature_hidden_size": config.temperature_width,
        "top_p_hidden_size": config.top_p_width,
        RECORD: record,
    }


def new_record(base_name: str | None, base: BaseIdentity, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What stands under `selfreg`: which base the heads were trained on, and everything that decided them."""
    return {"base": {"name": base_name, **base.record()}, "recipe": dict(recipe)}


def generation(base: Mapping[str, Any]) -> dict[str, Any]:
    """The base's generation_config.json with what is drawn left to the heads: engines read their defaults from it."""
    return {**base, **NEUTRAL}


def metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of the weights that go with a config.json."""
    return {"format": "pt", RECORD: json.dumps(config[RECORD], sort_keys=True)}


def record(contents: Contents) -> tuple[str | None, BaseIdentity, dict[str, Any]]:
    """The base's name, its identity, and the recipe, as far as a checkpoint tells.

    Raises:
        CheckpointError: the metadata of the weights is damaged.
    """
    config = contents.config
    try:
        own = json.loads(contents.metadata[RECORD]) if RECORD in contents.metadata else config.get(RECORD)
    except ValueError as error:
        raise CheckpointError(f"{str(contents.path)!r}: the record {RECORD!r} of the weights is not JSON") from error
    if own:
        return own["base"].get("name"), BaseIdentity.of_record(own["base"]), dict(own["recipe"])
    identity = BaseIdentity.of_published(config)
    if config.get("model_type") not in (None, MODEL_TYPE):
        # The oldest layout leaves the base's config as it was.
        identity = BaseIdentity.of_record({**asdict(identity), "model_type": config["model_type"]})
    return config.get("base_model_name_or_path"), identity, {}


def base_config(config: Mapping[str, Any], architecture: str | None) -> dict[str, Any]:
    """The base's own config.json out of the published one; its architecture's class is not in there."""
    own = fields(HeadsConfig(hidden_size=1), model_type=None, base_name=None, record={}).keys() | {
        "train_temp",
        "train_top_p",
    }
    base = {name: value for name, value in config.items() if name not in own}
    model_type = config.get("base_model_type") or config.get("model_type")
    return {**({"architectures": [architecture]} if architecture else {}), **base, "model_type": model_type}
