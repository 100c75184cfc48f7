"""What the front process is started with, from the recipe and the checkpoint's files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from deploykit.deployment.secrets import hash_api_keys
from deploykit.server.spec import ChatDefaults, Limits, ServeSpec

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.checkpoint.tokenizer import TokenizerFiles
    from deploykit.prompt.templates.resolve import Resolved
    from deploykit.recipe import LoadedRecipe


def make_serve_spec(
    loaded: LoadedRecipe, facts: Facts, tokenizer: TokenizerFiles, template: Resolved
) -> ServeSpec:
    """The spec without `engine_socket` and the bound port, which the supervisor's side fills in."""
    recipe = loaded.recipe
    server = recipe.server
    return ServeSpec(
        name=loaded.name,
        model_names=tuple(server.model_names) or (loaded.name,),
        engine_socket="",
        tokenizer_path=str(tokenizer.tokenizer_json),
        chat_template=template.source,
        template_name=template.name,
        template_python=template.python,
        template_stops=template.stop_words,
        no_chat=None if template.chat else template.reason,
        capability=template.capability,
        system=template.system if recipe.chat.system is None else recipe.chat.system,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        add_bos=tokenizer.add_bos,
        defaults=_defaults(loaded, facts),
        limits=Limits(**server.limits.model_dump()),
        api_key_hashes=hash_api_keys(server.api_keys),
        host=server.host,
        port=server.port,
        drain_timeout=server.drain_timeout,
        log_level=server.log_level,
        created=int(time.time()),
    )


def _defaults(loaded: LoadedRecipe, facts: Facts) -> ChatDefaults:
    """The recipe's where it says something, else the checkpoint's generation_config.json.

    A checkpoint that says `do_sample: false` is greedy; one that doesn't say is not, as other servers have it
    (transformers would be greedy there too). Its other settings count once a request asks for a temperature.
    """
    given = loaded.recipe.chat.defaults
    config = facts.generation_config
    greedy = config.get("do_sample") is False
    from_checkpoint: dict[str, Any] = {
        "temperature": 0.0 if greedy else _number(config.get("temperature"), 0.0, 2.0),
        "top_p": _number(config.get("top_p"), 1e-6, 1.0),
        "top_k": _integer(config.get("top_k")),
        "min_p": _number(config.get("min_p"), 0.0, 1.0),
        "repetition_penalty": _number(config.get("repetition_penalty"), 1e-6, 2.0),
        "max_tokens": _integer(config.get("max_new_tokens")) or None,
    }

    def pick(key: str) -> Any:
        value = getattr(given, key)
        return from_checkpoint.get(key) if value is None else value

    return ChatDefaults(
        temperature=pick("temperature"),
        top_p=pick("top_p"),
        top_k=pick("top_k"),
        min_p=pick("min_p"),
        repetition_penalty=pick("repetition_penalty"),
        max_tokens=pick("max_tokens"),
        stop=tuple(given.stop),
    )


def _number(value: object, low: float, high: float) -> float | None:
    """A checkpoint's setting is taken only where a request could have asked for it."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return float(value) if usable else None  # type: ignore[arg-type]


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
