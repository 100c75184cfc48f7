"""The engine beside other engines: settings, turns, ratios, and peers that are missing or die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from deploykit.bench import compare_run, figures, host_overhead, peers, report, tables, turns, versus
from deploykit.bench.figures import Job
from deploykit.bench.peers import KINDS, Peer, Setting
from deploykit.bench.versus_report import Ceilings, Sample
from deploykit.bench.work import Work
from deploykit.checkpoint.facts import Facts
from deploykit.errors import ConfigError, DeploykitError

FAKE = Path(__file__).with_name("fake_peer.py")
JOBS = (
    Job(kind="single", groups=("decode", "prefill"), prompt_len=6, output_len=4),
    Job(kind="batch", groups=("batch",), prompt_len=3, output_len=4, requests=2),
    Job(kind="fresh", groups=("start", "memory"), prompt_len=6, output_len=2),
)
OPTIONS = versus.Options(rounds=2, tries=2, settle=0.0)
WORK = Work(
    weight_bytes=1000,
    kv_token_bytes=10,
    step_tokens=8,
    layer_macs=500,
    head_macs=100,
    attention_macs=4,
)


def _facts(path="model.gguf") -> Facts:
    return Facts(
        path=str(path),
        format="gguf",
        architecture="LlamaForCausalLM",
        model_type="llama",
        config={},
        weight_dtype="q4_1",
        num_layers=1,
        hidden_size=8,
        intermediate_size=8,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=128,
        max_position_embeddings=64,
    )


def _peer(log, fault="") -> Peer:
    argv = (sys.executable, str(FAKE), str(log), fault)
    settings = tuple(
        Setting(name, frozenset({"single", "batch"})) for name in ("fast prefill", "fast decode")
    )
    return Peer("fake", "fake", "fake 1.0", argv, "model.gguf", "folder", settings)


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_TESTING", "1")
    monkeypatch.setenv("DEPLOYKIT_RUNNER", "fake")
    monkeypatch.setattr(
        versus.ceilings, "measure", lambda n: Ceilings(read_gbytes_per_s=40.0, int8_gops=None, source="test")
    )
    made = host_overhead.plan_for(rows=4, session_len=64)
    return msgspec.structs.replace(made, vocab_size=128, block_bytes=640, max_prefill_tokens=8)


def _compare(plan, log, fault="", jobs=JOBS):
    said: list[str] = []
    result = versus.compare(plan, _facts(), [_peer(log, fault)], jobs, OPTIONS, said.append)
    return result, said


def test_a_comparison(plan, tmp_path, capsys):
    result, said = _compare(plan, tmp_path / "log")
    rows = {row.name: row for row in result.figures}
    assert list(rows) == ["decode_6", "prefill_6", "batch_2", "start", "memory"]
    # Each figure has the setting that was best at it, and that setting's own value.
    assert rows["decode_6"].others[0].setting == "fast decode"
    assert rows["decode_6"].others[0].median == pytest.approx(100.0)
    assert rows["prefill_6"].others[0].setting == "fast prefill"
    assert rows["prefill_6"].others[0].median == pytest.approx(1000.0)
    assert rows["batch_2"].others[0].median == pytest.approx(200.0)
    for row in rows.values():
        assert len(row.ours.samples) == len(row.others[0].samples) == OPTIONS.rounds
        assert row.ratios == {"fake": pytest.approx(row.ours.median / row.others[0].median)}
    assert rows["memory"].ours.median > 1 << 20
    assert rows["start"].unit == "s"
    assert not rows["start"].higher_is_better
    assert rows["decode_6"].ours.gbytes_per_s > 0
    assert any("round 2 of 2, batch_2, fake (fast decode): 200.0 tok/s" in line for line in said)

    made = report.make_report((result,), report.machine_facts())
    jsonschema.validate(json.loads(report.encode(made)), msgspec.json.schema(report.Report))
    tables.show(made)
    out = capsys.readouterr().out
    assert "this machine: reads 40.0 GB/s (test)" in out
    assert "decode after 6 tokens" in out
    tables.write(made, tmp_path / "bench.txt")
    assert (tmp_path / "bench.txt").read_text() == out


def test_sides_take_turns_with_the_same_prompts(plan, tmp_path):
    result, _ = _compare(plan, tmp_path / "log", jobs=JOBS[1:2])
    order = [(s.round, s.side) for s in result.samples]
    assert order == [(1, "fake"), (1, "deploykit"), (2, "deploykit"), (2, "fake")]
    requests = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    asked = [r for r in requests if r["op"] == "batch"]
    # Two tries of both settings, then a warm-up and two rounds of the best one.
    names = ["fast prefill", "fast decode"] * 2 + ["fast decode"] * 3
    assert [r["setting"] for r in asked] == names
    prompts = [json.dumps(r["prompts"]) for r in asked]
    assert prompts[0] == prompts[1]
    assert len(set(prompts)) == 5  # no prefix cache turns a later round into a shortcut
    assert [s.round for s in result.tuning] == [0, 0, 1, 1]
    load = next(r for r in requests if r["op"] == "load")
    assert (load["threads"], load["context"], load["sequences"]) == (plan.threads, 64, 2)


@pytest.mark.parametrize(
    ("fault", "what", "why"),
    [
        ("crash", "fake ended", "exit code 1; its last words: the fake peer is out of memory"),
        ("mute", "fake answered no event", "no event"),
        ("short", "fake could not single", "made \\[1\\] tokens instead of 4"),
    ],
)
def test_a_peer_that_fails_is_named_with_its_own_words(plan, tmp_path, fault, what, why):
    with pytest.raises(DeploykitError, match=what) as caught:
        _compare(plan, tmp_path / "log", fault)
    import re

    assert re.search(why, caught.value.why)


def test_a_session_too_short_is_refused_before_anything_starts(plan, tmp_path):
    with pytest.raises(ConfigError, match="sessions of 12 tokens"):
        _compare(
            msgspec.structs.replace(plan, session_len=8),
            tmp_path / "log",
            jobs=(Job(kind="single", groups=("decode",), prompt_len=8, output_len=4),),
        )
    assert not (tmp_path / "log").exists()


def test_what_is_asked_for():
    assert [f.name for job in figures.JOBS for f in job.figures] == [
        "decode_16",
        "decode_512",
        "prefill_512",
        "decode_2048",
        "prefill_2048",
        "batch_16",
        "http_16",
        "start",
        "memory",
    ]
    assert [f.name for j in figures.chosen_jobs(["prefill"]) for f in j.figures] == [
        "prefill_512",
        "prefill_2048",
    ]
    assert [f.name for j in figures.chosen_jobs(["http"]) for f in j.figures] == ["batch_16", "http_16"]
    assert figures.session_len(figures.JOBS) == 2176
    with pytest.raises(ConfigError, match="no figure 'speed'"):
        figures.chosen_jobs(["speed"])


def test_what_a_figure_asks_of_the_machine():
    single = JOBS[0]
    decode, prefill = single.figures
    # 4 tokens in 2 s: weights 4 times, context of 6 + 2 tokens on average each time.
    assert WORK.achieved(decode, 2.0) == (
        pytest.approx((4 * 1000 + 4 * 8 * 10) / 2 / 1e9),
        pytest.approx(2 * (4 * 600 + 4 * 8 * 4) / 2 / 1e9),
    )
    # 6 tokens in 2 s and one step: 21 pairs of a token and one of its context, one row of logits.
    assert WORK.achieved(prefill, 3.0) == (
        pytest.approx((1000 + 6 * 10) / 2 / 1e9),
        pytest.approx(2 * (6 * 500 + 100 + 21 * 4) / 2 / 1e9),
    )
    batch = JOBS[1].figures[0]
    # 8 tokens in 2 s: one step for the 6 prompt tokens, 4 for both rows; each row decodes over 3 + 2 on average.
    assert WORK.achieved(batch, 4.0)[0] == pytest.approx((5 * 1000 + (2 * 4 * 5 + 6) * 10) / 2 / 1e9)
    assert WORK.achieved(JOBS[2].figures[0], 1.0) == (None, None)
    assert msgspec.structs.asdict  # figures of unknown shape have bytes alone
    import dataclasses

    assert dataclasses.replace(WORK, layer_macs=None).achieved(decode, 2.0)[1] is None


def test_http_is_compared_with_our_own_engine():
    jobs = figures.chosen_jobs(["http"])
    values = {
        "deploykit": ("batch_16", 100.0),
        "deploykit over HTTP": ("http_16", 95.0),
        "p": ("batch_16", 50.0),
    }
    samples = [
        Sample(round=1, figure=figure, side=side, setting=None, value=value, elsewhere=0.0)
        for side, (figure, value) in values.items()
    ]
    made = [turns.result_of(f, samples, {}, WORK, {}) for job in jobs for f in job.figures]
    assert [row.ratios for row in made] == [{"p": 2.0}, {"deploykit": 0.95}]


def test_the_best_setting_is_chosen_by_the_tries_after_the_first():
    def sample(round_, setting, value):
        return Sample(round=round_, figure="decode_6", side="p", setting=setting, value=value, elsewhere=None)

    tries = [sample(0, "a", 9.0), sample(0, "b", 1.0), sample(1, "a", 2.0), sample(1, "b", 3.0)]
    assert turns.best_settings(tries, JOBS) == {("decode_6", "p"): "b"}
    assert turns.best_settings(tries[:2], JOBS) == {("decode_6", "p"): "a"}


# ---------------------------------------------------------------- finding peers


def test_a_peer_that_is_not_installed_says_what_to_install_and_where(tmp_path):
    argv = (sys.executable, str(FAKE), str(tmp_path / "log"), "missing")
    with pytest.raises(ConfigError, match="--vs llamacpp: its package is not installed") as caught:
        peers.prepare(KINDS["llamacpp"], argv, _facts(), tmp_path)
    assert caught.value.where == sys.executable
    assert caught.value.why == "No module named 'fake'"
    for part in (
        "-m pip install llama-cpp-python",
        "--peer-python llamacpp=PATH",
        "DEPLOYKIT_BENCH_LLAMACPP_PYTHON",
    ):
        assert part in caught.value.fix


def test_the_real_peer_scripts_say_that_their_package_is_missing(tmp_path):
    """With an interpreter that has no packages at all: none of the scripts needs more than its peer."""
    for kind in KINDS.values():
        argv = (sys.executable, "-I", "-S", str(peers.MAIN), kind.key)
        with pytest.raises(ConfigError, match=f"--vs {kind.key}: its package is not installed"):
            peers.prepare(kind, argv, _facts(), tmp_path)


def test_the_interpreter_of_a_peer(monkeypatch):
    monkeypatch.delenv("DEPLOYKIT_BENCH_OPENVINO_PYTHON", raising=False)
    command = compare_run.installed(["openvino"], [])["openvino"]
    assert command == (sys.executable, str(peers.MAIN), "openvino")
    monkeypatch.setenv("DEPLOYKIT_BENCH_OPENVINO_PYTHON", "/bin/sh")
    assert compare_run.installed(["openvino"], [])["openvino"][0] == "/bin/sh"
    assert (
        compare_run.installed(["openvino"], [f"openvino={sys.executable}"])["openvino"][0] == sys.executable
    )
    for vs, given, what in (
        (["vllm"], [], "no peer 'vllm'"),
        (["openvino"], ["openvino"], "not NAME=PATH"),
        (["openvino"], ["openvino=/no/python"], "no Python /no/python"),
        (["openvino"], [f"llamacpp={sys.executable}"], "goes with --vs llamacpp"),
    ):
        with pytest.raises(ConfigError, match=what):
            compare_run.installed(vs, given)


def test_a_peer_makes_its_files_in_a_folder_of_the_model_and_the_version(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "cache_key", lambda facts: "abc")
    argv = (sys.executable, str(FAKE), str(tmp_path / "log"))
    peer = peers.prepare(KINDS["llamacpp"], argv, _facts(), tmp_path)
    assert Path(peer.folder) == tmp_path / "bench" / "abc-fake-1.0"
    assert Path(peer.folder).is_dir()
    assert [s.name for s in peer.settings] == ["fast prefill", "fast decode"]
    asked = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert (asked["op"], asked["plain"], asked["model_path"]) == ("prepare", None, "model.gguf")


def test_bandwidth_is_measured_by_all_readers():
    made = versus.ceilings.measure(1, seconds=0.01)
    assert made.read_gbytes_per_s > 0
    assert made.int8_gops is None


def test_the_command_from_recipe_to_report(smollm2, tmp_path):
    """Our engine process, our server and a peer's process, with the fake runner in place of a model."""
    python = tmp_path / "python"  # what --peer-python names: any program that speaks the protocol
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "{tmp_path / "log"}"\n')
    python.chmod(0o755)
    recipe = Path(__file__).parents[2] / "recipes" / "smollm2-135m.yaml"
    command = [sys.executable, "-m", "deploykit", "bench", str(recipe), "--vs", "llamacpp"]
    options = ["--peer-python", f"llamacpp={python}", "--only", "http", "--quick", "--json"]
    environment = {**os.environ, "DEPLOYKIT_TESTING": "1", "DEPLOYKIT_RUNNER": "fake"}
    out = tmp_path / "results"
    done = subprocess.run(
        [*command, *options, "--out", str(out)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "bench.json").read_text())
    (result,) = report.read_report(out / "bench.json").results
    assert (result.engine, result.rounds) == ("fake", 2)
    assert [row.name for row in result.figures] == ["batch_16", "http_16"]
    batch, http = result.figures
    assert (batch.others[0].side, batch.others[0].setting) == ("fake", "fast decode")
    assert batch.others[0].median == pytest.approx(200.0)
    assert http.ratios == {"deploykit": pytest.approx(http.ours.median / batch.ours.median)}
    assert "16 at once over HTTP" in (out / "bench.txt").read_text()
