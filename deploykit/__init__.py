"""deploykit: one YAML recipe in, one healthy OpenAI-compatible endpoint out.

What Python programs use is exported here and imported at first use, so that `import deploykit` costs nothing.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploykit.pipe.engine_config import EngineConfig as EngineConfig
    from deploykit.pipe.errors import GenerationError as GenerationError
    from deploykit.pipe.generation_config import GenerationConfig as GenerationConfig
    from deploykit.pipe.make import pipeline as pipeline
    from deploykit.pipe.pipeline import Pipeline as Pipeline
    from deploykit.pipe.response import Chunk as Chunk
    from deploykit.pipe.response import Response as Response
    from deploykit.pipe.session import Session as Session
    from deploykit.prompt.templates.fields import ChatTemplateConfig as ChatTemplateConfig
    from deploykit.prompt.templates.registry import register_template as register_template

__version__ = "0.1.0"

# Public name -> the module that defines it under that name.
_EXPORTS = {
    "ChatTemplateConfig": "deploykit.prompt.templates.fields",
    "Chunk": "deploykit.pipe.response",
    "EngineConfig": "deploykit.pipe.engine_config",
    "GenerationConfig": "deploykit.pipe.generation_config",
    "GenerationError": "deploykit.pipe.errors",
    "Pipeline": "deploykit.pipe.pipeline",
    "Response": "deploykit.pipe.response",
    "Session": "deploykit.pipe.session",
    "pipeline": "deploykit.pipe.make",
    "register_template": "deploykit.prompt.templates.registry",
}


def __getattr__(name: str) -> Any:
    if (module := _EXPORTS.get(name)) is None:
        if not name.startswith("_") and not _is_module(name):
            _explain(name)
        raise AttributeError(
            f"module 'deploykit' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    from importlib import import_module

    value = globals()[name] = getattr(import_module(module), name)
    return value


def _is_module(name: str) -> bool:
    """Whether the package has a module of this name: `from deploykit import hub` asks here before it imports it."""
    return any(os.path.exists(os.path.join(__path__[0], end)) for end in (name, f"{name}.py"))  # noqa: PTH110, PTH118


def _explain(name: str) -> None:
    """Raises ImportError for a name that another server's Python API has: `from deploykit import …` shows its text."""
    from deploykit.recipe.foreign import attribute

    if hint := attribute(name):
        raise ImportError(f"cannot import name {name!r} from 'deploykit': {hint}", name="deploykit")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
