"""The environment variables that say where models may be fetched from."""

from __future__ import annotations

import os

from deploykit.errors import ConfigError

OFFLINE = ("DEPLOYKIT_OFFLINE", "HF_HUB_OFFLINE")
USE_MODELSCOPE = "DEPLOYKIT_USE_MODELSCOPE"
_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")


def offline_switch() -> str | None:
    """The variable that forbids every connection, if one does. `HF_HUB_OFFLINE` is taken for all hubs."""
    return next((name for name in OFFLINE if _is_on(name)), None)


def use_modelscope() -> bool:
    """Whether ModelScope goes before the other sources, and a plain id is looked for there first."""
    return _is_on(USE_MODELSCOPE)


def _is_on(name: str) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value in _YES:
        return True
    if value in _NO:
        return False
    raise ConfigError(f"{name} can't be {value[:40]!r}", fix=f"set it to 1 or 0, or unset it: {name}=1")
