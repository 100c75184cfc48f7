"""Workloads, percentiles, and the document that a benchmark writes."""

from __future__ import annotations

import json
import statistics

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.bench import plot, report, tables, workload
from deploykit.bench.measure import median, percentile, spread, summarize
from deploykit.bench.report import Comparison, HostOverhead, HttpLoad, Peer, Startup
from deploykit.bench.workload import Workload
from deploykit.errors import ConfigError

SHAPE = Workload(name="three", prompt_len=5, output_len=7, concurrency=3, requests=3)


def test_prompts_are_the_same_for_a_run_and_differ_between_runs():
    first = workload.prompts(SHAPE, 1000, run=1)
    assert first == workload.prompts(SHAPE, 1000, run=1)
    assert [len(p) for p in first] == [5, 5, 5]
    everything = [tuple(p) for run in range(20) for p in workload.prompts(SHAPE, 1000, run=run)]
    assert len(set(everything)) == 60  # no prefix cache can help
    ids = [token for prompt in everything for token in prompt]
    assert min(ids) >= workload.FIRST_ID
    assert max(ids) < 1000


def test_what_a_workload_needs():
    assert SHAPE.output_tokens == 21
    assert SHAPE.session_len == 12
    assert workload.check(SHAPE, 12) is SHAPE
    with pytest.raises(ConfigError, match="sessions of 12 tokens"):
        workload.check(SHAPE, 11)
    with pytest.raises(ConfigError, match="at least 1"):
        workload.check(msgspec.structs.replace(SHAPE, output_len=0))
    with pytest.raises(ConfigError, match="too small"):
        workload.prompts(SHAPE, workload.FIRST_ID, run=0)


values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(values, st.floats(0, 100))
def test_percentiles_are_numpys(numbers, q):
    assert percentile(numbers, q) == pytest.approx(np.percentile(numbers, q), rel=1e-9, abs=1e-6)


@given(values)
def test_the_median_is_the_median(numbers):
    assert median(numbers) == pytest.approx(statistics.median(numbers), rel=1e-9, abs=1e-6)


def test_summaries():
    assert spread([10.0, 12.0, 11.0]) == pytest.approx(2 / 11)
    summary = summarize([3.0, 1.0, 2.0])
    assert (summary.count, summary.mean, summary.p50, summary.max) == (3, 2.0, 2.0, 3.0)
    assert summarize([]) is None
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def _report():
    peer = Peer(
        name="transformers.generate",
        dtype="bfloat16",
        threads=2,
        seconds=(1.0, 1.1),
        tokens_per_s=(21.0, 19.1),
        median=20.0,
        spread=0.1,
    )
    ours = msgspec.structs.replace(
        peer, name="deploykit pytorch", tokens_per_s=(31.0, 29.0), median=30.0, ttft_s=(0.1, 0.2)
    )
    summary = summarize([0.1, 0.2])
    return report.make_report(
        (
            Comparison(workload=SHAPE, model="tiny", parameters=9, runs=2, ours=ours, peer=peer, ratio=1.5),
            HostOverhead(rows=16, steps=2, overlap_depth=0, milliseconds=summary, samples_ms=(0.1, 0.2)),
            HttpLoad(
                workload=SHAPE,
                url="http://x/v1",
                model="tiny",
                seconds=1.0,
                completed=3,
                errors={"status 503: no": 1},
                prompt_tokens=15,
                output_tokens=21,
                requests_per_s=3.0,
                output_tokens_per_s=21.0,
                ttft_s=summary,
                itl_s=summary,
                tpot_s=None,
                latency_s=summary,
            ),
            Startup(
                target="r.yaml",
                ready_s=(3.0,),
                ready_median_s=3.0,
                front_rss_bytes=100 << 20,
                engine_anonymous_bytes=110 << 20,
                planned_bytes=100 << 20,
                help_s=(0.1,),
                help_median_s=0.1,
            ),
        ),
        report.machine_facts(),
    )


def test_a_report_comes_back_and_meets_its_schema(tmp_path):
    made = _report()
    path = tmp_path / "r.json"
    report.write_report(made, path)
    assert report.read_report(path) == made
    document = json.loads(path.read_text())
    jsonschema.validate(document, msgspec.json.schema(report.Report))
    assert document["schema"] == report.SCHEMA
    assert [r["type"] for r in document["results"]] == ["engine", "host_overhead", "http", "startup"]
    facts = document["machine"]
    assert facts["cores"] >= 1
    assert facts["packages"]["torch"]
    assert set(facts) >= {"cpu", "flags", "commit", "python", "memory_total"}


def test_the_tables_tell_it(capsys):
    tables.show(_report())
    out = capsys.readouterr().out
    assert "1.50" in out
    assert "+10.0% of the plan" in out
    assert "1 failed: status 503: no" in out
    assert "TPOT" not in out  # nothing was measured


def test_a_plot_is_drawn_or_refused_before_anything_runs(tmp_path):
    target = tmp_path / "p.png"
    plot.check(target)
    plot.write_plot(_report(), target)
    assert target.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="can't plot"):
        plot.check(tmp_path / "p.txt")


def test_without_matplotlib_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError) as caught:
        plot.check(tmp_path / "p.png")
    assert "pip install" in caught.value.fix
