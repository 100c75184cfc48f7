"""Calls without ceremony: a module's `__call__` becomes its forward, its children plain attributes.

At one token a step a model of 30 layers makes some 400 module calls; hooks, profiling scopes and attribute look-ups
through three dictionaries cost them as much as the arithmetic of the small operators. Nothing here uses hooks.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel


class ConfigView:
    """A model's config as plain attributes: transformers' own looks every name up in a map first."""

    def __init__(self, config: Any) -> None:
        self.__dict__.update({key: value for key, value in vars(config).items() if not key.startswith("__")})
        self.__dict__["_attn_implementation"] = config._attn_implementation
        self.__dict__["_config"] = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_config"], name)


_direct: dict[type[nn.Module], type[nn.Module]] = {}


def _direct_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The same class with `__call__` = `forward`, made once."""
    if cls not in _direct:
        _direct[cls] = type(cls.__name__, (cls,), {"__call__": cls.forward, "__module__": cls.__module__})
    return _direct[cls]


def shorten_calls(model: nn.Module) -> None:
    """Make calls inside `model` direct, in place."""
    views: dict[int, ConfigView] = {}
    for module in list(model.modules()):
        hooked = module._forward_hooks or module._forward_pre_hooks
        for name, child in list(module._modules.items()):
            module.__dict__[name] = list(child) if isinstance(child, nn.ModuleList) else child
        if isinstance(module, PreTrainedModel | nn.ModuleList) or hooked:
            continue
        config = module.__dict__.get("config")
        if config is not None:
            module.__dict__["config"] = views.setdefault(id(config), ConfigView(config))
        module.__class__ = _direct_class(type(module))
