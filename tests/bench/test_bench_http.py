"""Load over HTTP against a real server on a socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from deploykit.bench import http_load
from deploykit.bench.http_client import Timing
from deploykit.bench.workload import Workload
from deploykit.errors import DeploykitError

SHAPE = Workload(name="http", prompt_len=6, output_len=4, concurrency=3, requests=9)


def _measure(stub):
    return http_load.measure(f"{stub.url}/v1", None, "stub-model", SHAPE, lambda text: None)


def test_load_is_counted_and_bounded(completions):
    result = _measure(completions)
    assert result.completed == 9
    assert result.errors == {}
    assert (result.prompt_tokens, result.output_tokens) == (54, 36)
    assert result.output_tokens_per_s == pytest.approx(36 / result.seconds)
    assert result.itl_s.count == 27
    assert result.ttft_s.count == result.latency_s.count == 9
    assert 1 < completions.most_at_once <= 3
    asked = completions.requests[1:]
    assert len({tuple(r["prompt"]) for r in asked}) == 9
    assert all(r["max_tokens"] == 4 and r["ignore_eos"] is True and r["temperature"] == 0 for r in asked)


def test_failures_are_counted_by_what_they_say(completions):
    completions.failing = {2: "status", 4: "event", 6: "cut", 7: "status"}
    result = _measure(completions)
    assert result.completed == 5
    cut = next(what for what in result.errors if what.startswith("RemoteProtocolError: "))
    assert result.errors == {"error event: the engine was restarted": 1, "status 503: no engine": 2, cut: 1}


def test_a_server_that_refuses_is_an_error(completions):
    completions.failing = {0: "status"}
    with pytest.raises(DeploykitError, match="refused the first request") as caught:
        _measure(completions)
    assert caught.value.why == "status 503: no engine"


def test_the_figures_of_a_run():
    timings = [
        Timing(started=0.0, pieces=[1.0, 1.5, 3.0], ended=3.5, prompt_tokens=6, output_tokens=5),
        Timing(started=1.0, pieces=[2.0], ended=2.5, prompt_tokens=6, output_tokens=1),
        Timing(started=1.0, pieces=[], ended=4.0, prompt_tokens=6, output_tokens=4),
    ]
    result = http_load.summarize_load("u", "m", SHAPE, timings, 5.0, {})
    assert result.raw_ttft_s == (1.0, 1.0)
    assert result.raw_latency_s == (3.5, 1.5, 3.0)
    assert (result.itl_s.count, result.itl_s.max) == (2, 1.5)
    assert (result.tpot_s.count, result.tpot_s.max) == (1, 0.5)
    assert result.requests_per_s == pytest.approx(0.6)
    assert result.output_tokens_per_s == pytest.approx(2.0)


def test_the_command(completions, tmp_path):
    output = tmp_path / "http.json"
    command = [sys.executable, "-m", "deploykit", "bench", completions.url]
    options = ["-c", "2", "-n", "4", "--prompt-len", "8", "--output-len", "3", "-o", str(output)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 requests" in done.stdout
    assert "TTFT" in done.stdout
    (result,) = json.loads(output.read_text())["results"]
    assert result["type"] == "http"
    assert result["workload"] == {
        "name": "http",
        "prompt_len": 8,
        "output_len": 3,
        "concurrency": 2,
        "requests": 4,
    }


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("http://127.0.0.1:1", "--against", "generate"), "can only be measured over HTTP"),
        (("--plot", "x.png"), "--against generate"),
        (("--output", "no-such-folder/x.json"), "no folder"),
        (("--against", "magic"), "magic"),
        (("http://127.0.0.1:1", "--set", "engine.threads=1"), "a URL has none"),
        (("nothing-like-it",), "nothing called"),
        (("--runs", "3"), "--against"),
        (("http://127.0.0.1:1", "--vs", "llamacpp"), "can only be measured over HTTP"),
        (("--vs", "magic"), "no peer 'magic'"),
        (("--vs", "llamacpp", "--peer-python", "llamacpp=/no/python"), "no Python /no/python"),
        (("--vs", "llamacpp", "--only", "speed"), "no figure 'speed'"),
        (("--only", "decode"), "--only goes with --vs"),
        (("--quick",), "--quick goes with --vs"),
        (("--peer-python", "llamacpp=python3"), "--peer-python goes with --vs"),
        (("--kv", "int8"), "go with --perplexity"),
        (("--perplexity", "no-such-file.txt"), "can't be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(args, says):
    command = [sys.executable, "-m", "deploykit", "bench", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
