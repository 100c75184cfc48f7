"""Conversations of a file as load over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from deploykit.bench import dataset, dataset_load, dummy, gpu_workloads
from deploykit.bench.http_client import Timing
from deploykit.bench.suite_tables import dataset_rows
from deploykit.errors import ConfigError, DeploykitError


def talk(*texts):
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": "x", "conversations": turns}


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def letters(text):
    return [ord(letter) for letter in text]


def test_the_first_two_turns_are_asked(tmp_path):
    data = [talk("one", "two", "three", "four"), talk("alone"), talk(), talk("a", "b")]
    assert dataset.read_dialogs(write(tmp_path / "d.json", data)) == [("one", "two"), ("a", "b")]


def test_what_is_too_short_or_too_long_is_left_out():
    assert dataset.fits(4, 4)
    assert not dataset.fits(3, 100)
    assert not dataset.fits(100, 3)
    assert dataset.fits(1024, 1024)
    assert not dataset.fits(1025, 4)
    assert not dataset.fits(1000, 1049)


def test_a_sample_is_shuffled_alike_and_as_long_as_asked():
    dialogs = [(f"prompt {i:03}", "answer" * (1 + i % 3)) for i in range(50)] + [
        ("hi", "too short a prompt")
    ] * 50
    first, again = (dataset.sample(dialogs, 20, letters) for _ in range(2))
    assert first == again
    assert len(first) == 20
    assert [bytes(r.prompt).decode() for r in first] != [prompt for prompt, _ in dialogs[:20]]
    assert {r.output_len for r in first} <= {6, 12, 18}
    assert len(dataset.sample(dialogs, 1000, letters)) == 50


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "isn't JSON"),
        ('{"conversations": []}', "isn't a list"),
        ("[1]", "item 0 has no list"),
        ('[{"conversations": [{"from": "human"}, {"value": "b"}]}]', "a turn of item 0 has no text"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, text, says):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        dataset.read_dialogs(tmp_path / "d.json")
    assert says in f"{caught.value} {caught.value.what} {caught.value.why}"


def test_the_figures_of_a_load():
    timings = [
        Timing(started=0.0, pieces=[1.0, 1.5, 3.0], ended=3.5, prompt_tokens=6, output_tokens=5),
        Timing(started=1.0, pieces=[4.0], ended=4.5, prompt_tokens=8, output_tokens=1),
    ]
    requests = [gpu_workloads.IdRequest([1], 2)] * 3
    result = dataset_load.summarize("d.json", "u", "m", requests, 256, (timings, 7.0, {"status 503": 1}))
    assert (result.completed, result.requests, result.errors) == (2, 3, {"status 503": 1})
    assert (result.prompt_tokens, result.output_tokens) == (14, 6)
    assert result.tokens_per_s == pytest.approx(20 / 7)
    assert result.requests_per_s == pytest.approx(2 / 7)
    ttft = result.ttft_s
    assert (ttft.min, ttft.max, ttft.mean, ttft.p50, ttft.p75) == (1.0, 3.0, 2.0, 2.0, 2.5)
    assert (result.tpot_s.count, result.tpot_s.max) == (1, 0.5)
    assert (result.itl_s.count, result.itl_s.min, result.itl_s.max) == (2, 0.5, 1.5)
    title, head, rows = dataset_rows(result)
    assert "elapsed            7.00 s" in title
    assert "1 failed: status 503" in title
    assert [row[0] for row in rows] == ["TTFT", "TPOT", "ITL", "latency"]
    assert dict(zip(head, rows[0], strict=True))["p75 ms"] == "2500.000"
    with pytest.raises(DeploykitError, match="every request failed"):
        dataset_load.summarize("d.json", "u", "m", requests, 256, ([], 7.0, {"status 503": 3}))


def run(*args, **env):
    command = [sys.executable, "-m", "deploykit", "bench", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dummy.write_dummy_checkpoint(tmp_path_factory.mktemp("dummy") / "m", dummy.SHAPES["tiny"], "bf16")


def test_a_recipe_is_started_and_asked(tiny, tmp_path):
    data = write(
        tmp_path / "d.json", [talk(f"question {i}", "an answer") for i in range(8)] + [talk("no", "x")]
    )
    fake = {"DEPLOYKIT_TESTING": "1", "DEPLOYKIT_RUNNER": "fake"}
    done = run(tiny, "--dataset", data, "--num-prompts", 6, "-c", 3, "--out", tmp_path / "out", **fake)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 requests, 3 at once" in done.stdout
    (result,) = json.loads((tmp_path / "out" / "bench.json").read_text())["results"]
    assert result["type"] == "dataset"
    assert (result["prompt_tokens"], result["output_tokens"]) == (60, 54)
    assert result["ttft_s"]["count"] == 6


def test_a_url_is_asked_with_a_tokenizer_that_is_named(tiny, completions, tmp_path):
    data = write(tmp_path / "d.json", [talk(f"question {i}", "an answer") for i in range(4)])
    refused = run(completions.url, "--dataset", data)
    assert refused.returncode == 2
    assert "--tokenizer" in refused.stderr
    done = run(completions.url, "--dataset", data, "--tokenizer", tiny / "tokenizer.json")
    assert done.returncode == 0, done.stderr
    assert "d.json has 4 conversations that can be asked, 1000 were wanted" in done.stderr
    assert "4 of 4 requests, 256 at once" in done.stdout
    asked = completions.requests[1:]
    assert all(len(r["prompt"]) == 10 and r["max_tokens"] == 9 and r["ignore_eos"] is True for r in asked)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--dataset", "no-such-file.json"), "can't be read"),
        (("--dataset", "x.json", "--prompt-len", "3"), "the dataset has the lengths"),
        (("--dataset", "x.json", "--suite", "gpu"), "measured by itself"),
        (("--dataset", "x.json", "--host-overhead"), "measured by itself"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(args, says):
    done = run(*args)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
