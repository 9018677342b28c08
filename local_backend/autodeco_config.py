"""The configuration of a model with heads: the base's own, and which heads sit on it, in the published config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from local_backend.heads import WIDTH, HeadsConfig


class AutoDecoConfig(PreTrainedConfig):
    """What `config.json` of an AutoDeco checkpoint says; the base's fields lie flat beside the heads'.

    `base_config` is the base's own configuration. Whatever is not about the heads is read from it and written to it, so
    `config.vocab_size` and the like mean what they mean for the base.

    Args:
        base_config: the base's configuration; without it, it is built from `base_model_type` and the flat fields.
        base_model_type: the base's `model_type`, for instance "qwen2".
        base_model_name_or_path: where the base came from; default is what the given base_config was loaded from.
        enable_temperature_head: there is a temperature head (`train_temp` in the oldest files).
        enable_top_p_head: there is a top-p head (`train_top_p` in the oldest files).
        use_enhanced_features: the top-p head sees the four statistics.
        temperature_hidden_size: hidden units of the temperature head.
        top_p_hidden_size: hidden units of the top-p head.
        selfreg: everything that decided the heads in training, for the record.

    Raises:
        ValueError: neither a base_config nor a known base_model_type, or no head is enabled.
    """

    model_type = "autodeco"
    sub_configs = {"base_config": AutoConfig}  # noqa: RUF012 - transformers reads it as a class attribute

    def __init__(
        self,
        base_config: PreTrainedConfig | None = None,
        *,
        base_model_type: str | None = None,
        base_model_name_or_path: str | None = None,
        enable_temperature_head: bool | None = None,
        enable_top_p_head: bool | None = None,
        use_enhanced_features: bool = True,
        temperature_hidden_size: int = WIDTH,
        top_p_hidden_size: int = WIDTH,
        selfreg: Mapping[str, Any] | None = None,
        **base: Any,
    ) -> None:
        for own in ("architectures", "model_type"):
            base.pop(own, None)
        legacy = {name: base.pop(name, None) for name in ("train_temp", "train_top_p")}
        if base_config is None:
            if base_model_type is None:
                raise ValueError(
                    "this config names no base: give base_config or base_model_type (for instance 'llama')"
                )
            base_config = AutoConfig.for_model(base_model_type, **base)
        elif base_model_name_or_path is None:
            base_model_name_or_path = base_config.name_or_path or None
        super().__init__(
            architectures=["AutoDecoModelForCausalLM"],
            dtype=base_config.dtype,
            is_encoder_decoder=base_config.is_encoder_decoder,
            name_or_path=base_config.name_or_path,
        )
        self.base_model_type = base_config.model_type
        self.base_model_name_or_path = base_model_name_or_path
        self.enable_temperature_head = _enabled(enable_temperature_head, legacy["train_temp"])
        self.enable_top_p_head = _enabled(enable_top_p_head, legacy["train_top_p"])
        self.use_enhanced_features = use_enhanced_features
        self.temperature_hidden_size = temperature_hidden_size
        self.top_p_hidden_size = top_p_hidden_size
        self.selfreg = dict(selfreg or {})
        self.base_config = base_config

    @classmethod
    def of(cls, base_config: PreTrainedConfig, heads: HeadsConfig, **rest: Any) -> AutoDecoConfig:
        """The configuration of these heads on this base; `rest` as for the constructor."""
        return cls(
            base_config,
            enable_temperature_head=heads.temperature,
            enable_top_p_head=heads.top_p,
            use_enhanced_features=heads.statistics,
            temperature_hidden_size=heads.temperature_width,
            top_p_hidden_size=heads.top_p_width,
            **rest,
        )

    def heads_config(self, hidden_size: int) -> HeadsConfig:
        """How to build the heads for a base that hands [..., hidden_size] to its output embedding."""
        return HeadsConfig(
            hidden_size=hidden_size,
            statistics=self.use_enhanced_features,
            temperature=self.enable_temperature_head,
            top_p=self.enable_top_p_head,
            temperature_width=self.temperature_hidden_size,
            top_p_width=self.top_p_hidden_size,
        )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The base's text configuration: what caches and masks are built from."""
        base = self.__dict__.get("base_config")
        # transformers validates the fields of its own before the base is there.
        return self if base is None else base.get_text_config(decoder=decoder, encoder=encoder)

    def __getattr__(self, name: str) -> Any:
        # Only what is not found here; before the base is there (copying, unpickling), nothing is.
        if name.startswith("__") or "base_config" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["base_config"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        base = self.__dict__.get("base_config")
        if base is not None and name not in self.__dict__ and not hasattr(type(self), name) and hasattr(base, name):
            setattr(base, name, value)
        else:
            super().__setattr__(name, value)

    def to_dict(self) -> dict[str, Any]:
        """Everything, flat."""
        return self._flat(self.base_config.to_dict(), super().to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        """What `config.json` holds, flat."""
        return self._flat(self.base_config.to_diff_dict(), super().to_dict())

    def _flat(self, base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        ours = ("architectures", "model_type", "dtype", *(name for name in vars(self) if name in _FIELDS))
        return {**base, **{name: own[name] for name in ours if name in own}}


_FIELDS = frozenset(
    {
        "base_model_type",
        "base_model_name_or_path",
        "enable_temperature_head",
        "enable_top_p_head",
        "use_enhanced_features",
        "temperature_hidden_size",
        "top_p_hidden_size",
        "selfreg",
    }
)


def _enabled(said: bool | None, legacy: bool | None) -> bool:
    return said if said is not None else legacy if legacy is not None else True
