"""Recipe schema v1, `engine`: what computes, on which device, and how much at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .schema_types import Fraction, Section, Size


class CacheSection(Section):
    """KV memory: a share, a number of bytes or a number of blocks, one of the three."""

    ratio: Fraction | None = Field(
        default=0.8,
        description="Share of the memory that weights and steps leave free; on a CPU where it is written.",
    )
    bytes: Size | None = Field(
        default=None, description="Size of the KV memory instead of a share.", examples=["20GiB"]
    )
    blocks: int | None = Field(default=None, ge=1, description="Number of KV blocks instead of a share.")
    block_len: int = Field(
        default=64,
        ge=8,
        le=1024,
        description="Tokens a block: on a GPU a multiple of 32, of 64 before compute capability 8.0; "
        "on a CPU a power of two up to 256.",
    )
    quant_policy: Literal["none", "int8", "k8v4", "int4", "fp8"] = Field(
        default="none",
        description="Precision of KV memory; 0, 8 and 4 mean none, int8 and int4.",
        json_schema_extra={
            "type": ["string", "integer"],
            "enum": ["none", "int8", "k8v4", "int4", "fp8", 0, 8, 4],
        },
    )
    prefix_caching: bool = Field(default=True, description="Reuse the KV of prompts that start alike.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        # A share that is taken away again, as by `--set engine.cache.ratio=null`, was never written.
        if isinstance(data, dict) and "ratio" in data and data["ratio"] is None:
            return {key: value for key, value in data.items() if key != "ratio"}
        return data

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
    max_prefill_tokens: AutoInt = Field(default="auto", description="Prompt tokens that one step reads.")
    max_step_tokens: Literal["auto"] | Annotated[int, Field(ge=2)] = Field(
        default="auto",
        description="Tokens of one step: requests that decode come first, prompts get the rest; "
        "auto = max_prefill_tokens.",
    )
    max_prefill_chunks: int | None = Field(
        default=None,
        ge=1,
        description="Steps that reading a prompt takes at most; a step is made larger where it would take more.",
    )
    threads: AutoInt = Field(default="auto", description="Compute threads on a CPU.")
    rope_scaling_factor: Annotated[float, Field(ge=1, le=1024, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Longer sessions than trained: dynamic NTK scaling by this factor, over the checkpoint's own.",
    )
    use_logn_attn: bool | None = Field(
        default=None,
        description="Log-n attention scaling beyond the trained length; null = what the checkpoint says.",
    )
    lm_head_dtype: Literal["auto", "int8"] = Field(
        default="auto", description="Precision of the output head; auto = as the checkpoint stores it."
    )
    cache: CacheSection = Field(default_factory=CacheSection, description="KV memory.")
