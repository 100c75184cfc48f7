"""config.json of Hugging Face's layout, read as plain data: what it says about the model's size, and nothing run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploykit.checkpoint.errors import CheckpointError, printable

# Keys that make transformers import or fetch code, or pick an implementation: a checkpoint doesn't decide that.
CODE_KEYS = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "custom_pipelines",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "kernel_config",
        "use_kernels",
    }
)
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_MAX = 2**31 - 1


def without_code(value: Any) -> Any:
    """The same data without the keys that name code, at every depth (which `read_json` has bounded)."""
    if isinstance(value, dict):
        return {k: without_code(v) for k, v in value.items() if k not in CODE_KEYS}
    if isinstance(value, list):
        return [without_code(v) for v in value]
    return value


def _inner(part: dict[str, Any]) -> dict[str, Any]:
    """Of a part that holds towers as well (Qwen-Omni's thinker), the language model."""
    text = part.get("text_config")
    return text if "num_hidden_layers" not in part and isinstance(text, dict) else part


class ConfigReader:
    """Looks a size up under the names that architectures use for it; `file` is named in errors."""

    def __init__(self, config: dict[str, Any], file: Path) -> None:
        self.config = config
        self.file = file
        self.text = config
        if "num_hidden_layers" not in config:
            for part in _TEXT_PARTS:
                if isinstance(config.get(part), dict):
                    self.text = _inner(config[part])
                    break

    def architecture(self) -> str:
        names = self.config.get("architectures")
        if (
            not isinstance(names, list)
            or not names
            or not isinstance(names[0], str)
            or not names[0].isidentifier()
        ):
            fix = 'add it, such as "architectures": ["LlamaForCausalLM"]'
            raise CheckpointError("config.json names no architecture", file=self.file, fix=fix)
        return names[0]

    def model_type(self) -> str:
        value = self.config.get("model_type")
        if not isinstance(value, str) or not value:
            raise CheckpointError("config.json has no model_type", file=self.file)
        return value

    def find(self, *names: str) -> Any:
        for name in names:
            if self.text.get(name) is not None:
                return self.text[name]
        return None

    def integer(self, *names: str, default: int | None = None, low: int = 1, high: int = _MAX) -> int:
        value = self.find(*names)
        if value is None:
            value = default
        if type(value) is not int or not low <= value <= high:
            why = f"an integer in {low}..{high} is needed, not {printable(repr(value))}"
            raise CheckpointError(f"config.json: {names[0]} is missing or wrong", file=self.file, why=why)
        return value

    def sliding_window(self) -> int | None:
        if self.find("use_sliding_window") is False or self.find("sliding_window") is None:
            return None
        return self.integer("sliding_window")

    def num_kv_heads(self, num_heads: int) -> int:
        # Falcon: one KV head for all, unless its newer layout says otherwise.
        if self.find("multi_query_attention") is True:  # ChatGLM
            return self.integer("multi_query_group_num", high=1 << 16)
        multi_query = self.find("multi_query") is True and self.find("new_decoder_architecture") is not True
        default = 1 if multi_query else num_heads
        names = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "num_multi_query_heads")
        return self.integer(*names, default=default, high=1 << 16)


def token_ids(*sources: tuple[dict[str, Any], Path], key: str, vocab_size: int) -> tuple[int, ...]:
    """The ids under `key` of the first source that has any; generation_config.json goes before config.json."""
    for config, file in sources:
        value = config.get(key)
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(i) is int and 0 <= i < vocab_size for i in ids):
            why = f"{printable(repr(value))}; ids are integers below {vocab_size}"
            raise CheckpointError(f"{key} is wrong", file=file, why=why)
        if ids:
            return tuple(ids)
    return ()
