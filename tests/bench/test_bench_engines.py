"""The two sides of a comparison, on a tiny random model and on the fake runner."""

from __future__ import annotations

import sys
import threading

import msgspec
import pytest

from deploykit.bench import host_overhead, workload
from deploykit.bench.against_generate import compare
from deploykit.bench.engine_run import EngineRun
from deploykit.bench.peer import PeerProcess
from deploykit.bench.processes import cpu_seconds, memory_bytes
from deploykit.bench.workload import Workload
from deploykit.engine.fake import FakeRunner
from deploykit.errors import DeploykitError

SHAPE = Workload(name="tiny", prompt_len=6, output_len=5, concurrency=2, requests=2)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A random Llama of a few thousand weights, saved as a checkpoint."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=1,
        bos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_TESTING", "1")
    monkeypatch.setenv("DEPLOYKIT_RUNNER", "fake")


def test_the_peer_generates_from_the_checkpoint_and_names_its_faults(tiny_model):
    import torch

    folder, model = tiny_model
    prompts = workload.prompts(SHAPE, 128, run=1)
    expected = model.generate(
        torch.tensor(prompts),
        attention_mask=torch.ones(2, 6),
        do_sample=False,
        max_new_tokens=5,
        eos_token_id=None,
    )[:, 6:].tolist()
    with PeerProcess() as peer:
        with pytest.raises(DeploykitError, match="could not run") as caught:
            peer.run(prompts, 5)
        assert "unexpected request" in caught.value.why
        with pytest.raises(DeploykitError, match="could not load"):
            peer.load(str(folder / "missing"), "float32", 1)
        peer.load(str(folder), "float32", 1)
        assert peer.vocab_size == 128
        assert peer.parameters == sum(p.numel() for p in model.parameters())
        seconds, tokens = peer.run(prompts, 5)
        assert tokens == expected
        assert seconds > 0
        assert cpu_seconds(peer.pid) > 0
        resident, anonymous = memory_bytes(peer.pid)
        assert resident > anonymous > 0


def test_a_peer_that_dies_is_reported_with_its_last_words():
    code = "import sys; sys.stdin.readline(); print('no more memory', file=sys.stderr)"
    with PeerProcess([sys.executable, "-c", code]) as peer, pytest.raises(DeploykitError) as caught:
        peer.load("x", "float32", 1)
    assert "no more memory" in caught.value.why


def test_the_engine_process_is_driven_with_token_ids(fake):
    plan = host_overhead.plan_for(rows=4, session_len=64)
    threads = threading.active_count()
    with EngineRun(plan) as engine:
        engine.load()
        prompts = workload.prompts(SHAPE, engine.vocab_size, run=1)
        first, second = engine.run(SHAPE, prompts), engine.run(SHAPE, prompts)
        assert [len(row) for row in first.tokens] == [5, 5]
        assert first.tokens == second.tokens
        assert 0 < first.ttft <= first.seconds
        pid = engine.pid
    assert cpu_seconds(pid) is None  # it is gone
    assert threading.active_count() == threads


def test_an_engine_that_can_not_load_says_why(monkeypatch):
    monkeypatch.delenv("DEPLOYKIT_TESTING", raising=False)
    plan = host_overhead.plan_for(rows=1, session_len=64)
    with EngineRun(plan) as engine, pytest.raises(DeploykitError, match="DEPLOYKIT_TESTING"):
        engine.load()


def test_a_comparison_of_two_processes(tiny_model, fake):
    folder, _ = tiny_model
    plan = msgspec.structs.replace(
        host_overhead.plan_for(rows=4, session_len=64), model_path=str(folder), vocab_size=128
    )
    said = []
    (result,) = compare(plan, [SHAPE], 2, said.append)
    assert len(result.ours.seconds) == len(result.peer.seconds) == 2
    assert result.ours.tokens_per_s[0] == pytest.approx(10 / result.ours.seconds[0])
    assert result.ratio == pytest.approx(result.ours.median / result.peer.median)
    assert result.ours.idle_cpu_s is not None
    assert result.peer.dtype == "bfloat16"
    order = [line.split(", ")[-1].split(":")[0] for line in said if "run" in line and "tok/s" in line]
    assert order == ["ours", "peer", "peer", "ours"]


def test_a_workload_longer_than_a_session_is_refused_before_anything_starts(fake):
    from deploykit.errors import ConfigError

    plan = host_overhead.plan_for(rows=4, session_len=8)
    with pytest.raises(ConfigError, match="sessions of 11 tokens"):
        compare(plan, [SHAPE], 2, lambda text: None)


@pytest.mark.parametrize("depth", [0, 1])
def test_host_overhead_counts_every_step(depth):
    result = host_overhead.measure(FakeRunner(overlap_depth=depth), rows=4, steps=300)
    assert (result.rows, result.steps, result.overlap_depth) == (4, 300, depth)
    assert len(result.samples_ms) == result.milliseconds.count == 300
    assert min(result.samples_ms) > 0
