"""Configurations: every wrong field is named, other programs' names are understood, nothing drifts from the recipe."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from deploykit import EngineConfig, GenerationConfig
from deploykit.errors import ConfigError
from deploykit.pipe.engine_config import KEYS
from deploykit.pipe.generation_config import filled
from deploykit.recipe.schema import CacheSection, EngineSection
from deploykit.server.spec import ChatDefaults


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("max_new_tokens", 0),
        ("max_new_tokens", "12"),
        ("min_new_tokens", -1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_k", -2),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("presence_penalty", -3),
        ("frequency_penalty", 3),
        ("random_seed", 1 << 64),
        ("stop_words", "END"),
        ("stop_words", [""]),
        ("bad_words", [1]),
        ("stop_token_ids", [-1]),
        ("logit_bias", {"a": 1.0}),
        ("logit_bias", {3: 101}),
        ("ignore_eos", 1),
        ("skip_special_tokens", "no"),
        ("logprobs", 21),
        ("logprobs", True),
    ],
)
def test_a_value_out_of_bounds_names_its_field(field: str, value: Any) -> None:
    if (field, value) == ("stop_words", "END"):
        assert GenerationConfig(stop_words="END").http_fields() == {"stop": "END"}  # one stop word
        return
    with pytest.raises(ValueError, match=f"`{field}") as caught:
        GenerationConfig(**{field: value})
    assert isinstance(caught.value, ConfigError)
    assert caught.value.where == field


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GenerationConfig(max_tokens=5), "here it is `max_new_tokens`"),
        (lambda: GenerationConfig(do_sample=True), "`top_k=1`"),
        (lambda: GenerationConfig(temprature=1), "did you mean `temperature`"),
        (lambda: GenerationConfig(blah=1), "its fields are n, max_new_tokens"),
        (lambda: EngineConfig(cache_max_entry_count=0.8), "did you mean `cache_ratio`"),
        (lambda: EngineConfig(enable_prefix_caching=True), "did you mean `prefix_caching`"),
        (lambda: EngineConfig(max_prefill_token_num=1), "did you mean `max_prefill_tokens`"),
        (lambda: EngineConfig(cache_block_seq_len=64), "did you mean `cache_block_len`"),
        (lambda: EngineConfig(device_type="cuda"), "did you mean `device`"),
        (lambda: EngineConfig(block_size=64), "did you mean `cache_block_len`"),
        (lambda: EngineConfig(num_gpu_blocks=9), "did you mean `cache_blocks`"),
        (lambda: EngineConfig(dp=2), "`tp` alone"),
        (lambda: EngineConfig(revision="main"), r'sets=\["model.revision=…"\]'),
        (lambda: EngineConfig(trust_remote_code=True), "never run"),
        (lambda: EngineConfig(sesion_len=1), "did you mean `session_len`"),
    ],
)
def test_other_names_for_a_field_are_understood(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("session_len", "long", "`session_len` must be `auto` or a whole number of at least 1"),
        ("tp", 0, "`tp` must be a whole number from 1 to 64"),
        ("cache_ratio", 80, "`cache_ratio` must be a number above 0 and at most 1"),
        ("quant_policy", 3, "`quant_policy` must be"),
        ("dtype", "bf16", "write `bfloat16`"),
        ("backend", "turbomind", "write `native`"),
        ("prefix_caching", "yes", "`prefix_caching` must be true or false"),
        ("threads", object(), "`threads` must be"),
    ],
)
def test_an_engine_setting_is_judged_as_a_recipe_would_be(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        EngineConfig(**{field: value})
    assert message in str(caught.value)
    assert isinstance(caught.value, ConfigError)


def test_every_engine_key_of_the_recipe_has_a_field_and_every_field_a_key() -> None:
    keys = {f"engine.{name}" for name in EngineSection.model_fields if name != "cache"}
    keys |= {f"engine.cache.{name}" for name in CacheSection.model_fields}
    assert set(KEYS.values()) == keys | {"model.dtype"}
    assert set(KEYS) == {field.name for field in dataclasses.fields(EngineConfig)}


def test_a_call_goes_over_the_pipe_field_by_field() -> None:
    below = GenerationConfig(max_new_tokens=5, top_k=0, stop_words=["x"])
    merged = GenerationConfig(top_k=3).over(below)
    assert merged == GenerationConfig(max_new_tokens=5, top_k=3, stop_words=["x"])
    assert repr(merged) == "GenerationConfig(max_new_tokens=5, top_k=3, stop_words=['x'])"


def test_the_recipe_and_the_checkpoint_go_over_the_defaults() -> None:
    assert filled(ChatDefaults()) == ChatDefaults(
        temperature=0.8, top_p=1.0, top_k=1, min_p=0.0, repetition_penalty=1.0, max_tokens=512
    )
    given = filled(ChatDefaults(temperature=0.2, top_k=0, stop=("END",)))
    assert (given.temperature, given.top_k, given.stop, given.max_tokens) == (0.2, 0, ("END",), 512)


def test_importing_the_package_costs_nothing_and_its_names_are_there() -> None:
    code = (
        "import sys, deploykit; light = set(sys.modules);"
        "from deploykit import pipeline, GenerationConfig, ChatTemplateConfig, EngineConfig, register_template;"
        "import deploykit.pipe.make; from deploykit import pipeline;"
        "print(callable(pipeline), sorted({'pydantic', 'numpy'} & light), 'torch' in sys.modules, dir(deploykit))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True [] False ")
    assert "'Session'" in done.stdout
