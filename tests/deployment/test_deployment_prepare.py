"""From a target to a plan and a spec: what is taken, what is refused, what is reported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
import tiny_checkpoint
from tiny_checkpoint import TEMPLATE

from deploykit.deployment.prepare import prepare, refs_of
from deploykit.deployment.secrets import hash_api_keys, is_loopback
from deploykit.deployment.stage import Stage
from deploykit.deployment.target import load, open_target
from deploykit.engine.protocol import PROTOCOL_VERSION, Ready
from deploykit.errors import ConfigError, DeploykitError
from deploykit.hub import HfRef, PathRef, PypiRef
from deploykit.prompt.tokenizer import Tokenizer
from deploykit.recipe import RecipeError
from deploykit.recipe.schema import FileSecret
from deploykit.server.params import sampling_params
from deploykit.server.schema import ChatCompletionRequest
from deploykit.server.spec import ServeSpec

READY = Ready(
    version=PROTOCOL_VERSION,
    engine="fake",
    device="cpu",
    dtype="float32",
    max_rows=1,
    session_len=64,
    vocab_size=32,
    block_len=16,
    num_blocks=4,
    credits=1,
    bytes_predicted=0,
    bytes_measured=0,
)


def recipe(folder: Path, text: str, name: str = "r.yaml") -> str:
    path = folder / name
    path.write_text("version: 1\n" + text)
    return str(path)


def test_a_model_folder_becomes_a_plan_and_a_spec(checkpoint: Path) -> None:
    stages: list[Stage] = []
    prepared = prepare(str(checkpoint), report=stages.append)
    assert prepared.loaded.name == "tiny-llama"
    assert prepared.fetched.path == checkpoint
    assert (prepared.plan.engine, prepared.plan.model_path) == ("fake", str(checkpoint))
    spec = prepared.serve
    assert spec.model_names == ("tiny-llama",)
    assert spec.chat_template == TEMPLATE
    assert Path(spec.tokenizer_path).is_file()
    assert (spec.bos_token, spec.eos_token, spec.api_key_hashes) == ("<s>", "</s>", ())
    # The checkpoint's own defaults, but for what no request could ask for (top_k: -1).
    assert (spec.defaults.temperature, spec.defaults.top_p, spec.defaults.top_k) == (0.6, 0.9, None)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ServeSpec) == spec
    assert [(s.name, s.state) for s in stages if s.state != "progress"] == [
        *(("recipe", "start"), ("recipe", "done")),
        *(("weights", "start"), ("weights", "done")),
        *(("plan", "start"), ("plan", "done")),
    ]
    assert all(s.seconds is not None for s in stages if s.state == "done")
    assert "16 requests at once" in stages[-1].detail or "requests at once" in stages[-1].detail


@pytest.mark.parametrize(
    ("config", "asked", "used"),
    [
        ({}, {}, (1.0, 1.0, 0)),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 20}, {}, (0.6, 0.9, 20)),
        ({"temperature": 0.6, "top_k": 20}, {"temperature": 1.5}, (1.5, 1.0, 20)),
        ({"do_sample": True, "top_p": 0.9}, {}, (1.0, 0.9, 0)),
        ({"do_sample": False}, {}, (0.0, 1.0, 0)),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9, "top_k": 20}, {}, (0.0, 0.9, 20)),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.8}, (0.8, 0.9, 0)),
        ({"do_sample": None, "temperature": 0.6}, {}, (0.6, 1.0, 0)),
    ],
)
def test_a_request_that_says_nothing_is_sampled_as_the_checkpoint_asks(
    tmp_path: Path, config: dict[str, object], asked: dict[str, float], used: tuple[float, ...]
) -> None:
    model = tiny_checkpoint.make(tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps(config))
    spec = prepare(str(model)).serve
    request = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **asked})
    params = sampling_params(
        request,
        defaults=spec.defaults,
        max_tokens=8,
        logprobs=None,
        prompt_logprobs=None,
        tokenizer=Tokenizer.from_file(spec.tokenizer_path),
        ready=READY,
    )
    assert (params.temperature, params.top_p, params.top_k) == used


def test_the_recipe_goes_before_a_checkpoint_that_is_greedy(tmp_path: Path) -> None:
    model = tiny_checkpoint.make(tmp_path / "model")
    (model / "generation_config.json").write_text('{"do_sample": false, "top_k": 20}')
    target = recipe(tmp_path, f"model: {{path: {model}}}\nchat: {{defaults: {{temperature: 0.4}}}}\n")
    defaults = prepare(target).serve.defaults
    assert (defaults.temperature, defaults.top_k) == (0.4, 20)


def test_a_recipe_overrides_the_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}")
    (tmp_path / "key").write_text("sk-file\n")
    monkeypatch.setenv("MY_KEY", "sk-env")
    target = recipe(
        tmp_path,
        f"""\
name: mine
model: {{path: {checkpoint}}}
chat: {{template: own.jinja, system: Be brief., defaults: {{temperature: 0.1, max_tokens: 9, stop: [END]}}}}
server:
  host: 0.0.0.0
  port: 0
  model_names: [a, b]
  api_keys: [{{env: MY_KEY}}, {{file: key}}]
  limits: {{max_n: 2, max_body: 1MiB}}
  drain_timeout: 5s
""",
    )
    spec = prepare(target, sets=["chat.defaults.top_p=0.5"]).serve
    assert spec.chat_template == "{{ messages[0].content }}"
    assert spec.system == "Be brief."
    assert (spec.name, spec.model_names, spec.drain_timeout) == ("mine", ("a", "b"), 5.0)
    assert (spec.defaults.temperature, spec.defaults.top_p) == (0.1, 0.5)
    assert (spec.defaults.max_tokens, spec.defaults.stop) == (9, ("END",))
    assert (spec.limits.max_n, spec.limits.max_body) == (2, 1 << 20)
    assert spec.api_key_hashes == tuple(hashlib.sha256(k).hexdigest() for k in (b"sk-env", b"sk-file"))


def test_a_failed_stage_is_reported(tmp_path: Path) -> None:
    stages: list[Stage] = []
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DeploykitError):
        prepare(str(tmp_path), report=stages.append)
    assert stages[-1].state == "failed"


def test_a_path_wins_over_a_hub_id(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent.parent)
    target = f"{checkpoint.parent.name}/{checkpoint.name}"
    assert open_target(target).recipe.model.path == str(checkpoint)
    assert open_target("owner/Name-1.5B").recipe.model.id == "owner/Name-1.5B"
    assert open_target("owner/Name-1.5B").name == "name-1.5b"


def test_sources_keep_their_order(tmp_path: Path) -> None:
    sha = "a" * 64
    target = recipe(
        tmp_path,
        f"""\
model:
  sources:
    - {{pypi: pkg==1.0, file: pkg/m.gguf, sha256: {sha}}}
    - {{hf: owner/name, revision: v1}}
    - {{path: here}}
""",
    )
    assert refs_of(open_target(target).recipe.model) == [
        PypiRef("pkg==1.0", "pkg/m.gguf", sha),
        HfRef("owner/name", "v1"),
        PathRef(tmp_path / "here"),
    ]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere", "there is no 'nowhere'"),
        ("nowhere.gguf", "there is no"),
        ("../../etc", "there is no"),
        ("", "there is no"),
        ("a\0b", "there is no"),
        ("https://example.com/model", "there is no"),
        ("x" * 5000, "there is no"),
        ("~nobody-at-all/x.gguf", "there is no"),
    ],
)
def test_a_target_that_is_nothing(target: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_target(target)
    assert caught.value.exit_code == 2
    assert caught.value.fix


def test_a_missing_recipe_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        open_target(str(tmp_path / "missing.yaml"))


def test_a_folder_without_a_model_names_what_is_in_it(tmp_path: Path) -> None:
    recipe(tmp_path, "model: {path: x}", "serve.yaml")
    with pytest.raises(ConfigError) as caught:
        open_target(str(tmp_path))
    assert "serve.yaml" in (caught.value.fix or "")


def test_one_weights_file_names_its_folder(checkpoint: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_target(str(checkpoint / "model.safetensors"))
    assert str(checkpoint) in (caught.value.fix or "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "127.0.0.1.example.com"])
def test_an_open_address_needs_a_key(checkpoint: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="no API key") as caught:
        load(str(checkpoint), sets=[f'server.host="{host}"'])
    assert caught.value.exit_code == 2
    assert "api_keys" in (caught.value.fix or "")
    assert "127.0.0.1" in (caught.value.fix or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST."])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)


def test_a_key_that_is_not_set(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ["server.host=0.0.0.0", "server.api_keys=[{env: NO_SUCH_KEY}]"]
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        load(str(checkpoint), sets=sets)
    monkeypatch.setenv("NO_SUCH_KEY", "  ")
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is empty"):
        load(str(checkpoint), sets=sets)


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"\xff\xfe", b"x" * 100_000, None])
def test_a_key_file_that_holds_no_key(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        hash_api_keys([FileSecret(file=str(path))])
    assert str(path) in str(caught.value)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\xff", b" " * (2 << 20)])
def test_a_chat_template_that_cannot_be_read(checkpoint: Path, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "t.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="chat template"):
        load(str(checkpoint), sets=[f"chat.template={path}"])


@pytest.mark.parametrize("switch", ["DEPLOYKIT_RUNNER", "DEPLOYKIT_FAULT"])
def test_test_switches_are_refused_outside_of_tests(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.delenv("DEPLOYKIT_TESTING")
    monkeypatch.delenv("DEPLOYKIT_RUNNER")
    monkeypatch.setenv(switch, "fake")
    with pytest.raises(ConfigError, match=switch):
        load(str(checkpoint))
