"""Perplexity through the engine process: its arithmetic, its windows, and the text that comes with the package."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.bench import host_overhead, perplexity, report, tables
from deploykit.bench.engine_run import EngineRun
from deploykit.bench.perplexity import Variant
from deploykit.errors import ConfigError


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setenv("DEPLOYKIT_TESTING", "1")
    monkeypatch.setenv("DEPLOYKIT_RUNNER", "fake")
    return host_overhead.plan_for(rows=1, session_len=64)


def test_perplexity_is_exp_of_the_mean_of_what_the_engine_says(plan, capsys):
    ids = [(37 * i) % 500 + 40 for i in range(100)]
    variants = [Variant("reference", plan, reference=True), Variant("KV int8", plan)]
    result = perplexity.measure(variants, ids, ("t.txt", "text"), lambda text: None)
    assert (result.windows, result.tokens) == (2, 98)
    with EngineRun(plan) as engine:
        engine.load()
        logprobs = engine.score(ids[:50]) + engine.score(ids[50:])
    assert len(logprobs) == 98
    expected = math.exp(-sum(logprobs) / 98)
    assert [row.perplexity for row in result.rows] == [pytest.approx(expected)] * 2
    assert [row.off for row in result.rows] == [0.0, 0.0]
    tables.show(report.make_report((result,), report.machine_facts()))
    assert "perplexity of" in (out := capsys.readouterr().out)
    assert "+0.000%" in out


def test_how_far_a_row_is_from_the_reference(plan, monkeypatch):
    def row(variant, windows):
        value = 10.0 if variant.reference else 10.5
        return perplexity.PerplexityRow(
            name=variant.name,
            engine="e",
            dtype="d",
            kv_dtype="k",
            perplexity=value,
            mean_logprob=-math.log(value),
            off=None,
        )

    monkeypatch.setattr(perplexity, "_row", row)
    reference, other = Variant("reference", plan, reference=True), Variant("other", plan)
    source = ("t", "t")
    made = perplexity.measure([reference, other], [1, 2, 3], source, lambda text: None)
    assert [r.off for r in made.rows] == [0.0, pytest.approx(0.05)]
    made = perplexity.measure([other], [1, 2, 3], source, lambda text: None)
    assert [r.off for r in made.rows] == [None]
    assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made


@given(st.integers(2, 500), st.integers(2, 100))
def test_windows_hold_the_text_in_order(length, longest):
    ids = list(range(length))
    parts = perplexity.windows_of(ids, longest)
    assert all(perplexity.LEAST <= len(part) <= longest for part in parts)
    kept = [token for part in parts for token in part]
    assert kept == ids[: len(kept)]
    assert len(ids) - len(kept) < perplexity.LEAST


def test_the_text_of_the_package_is_long_enough():
    name, text = perplexity.read_text("builtin")
    assert name == "builtin"
    assert len(text.split()) > 1900
    assert text.isascii()


def test_a_text_that_can_not_be_read_or_predicted(tmp_path, plan):
    with pytest.raises(ConfigError, match="can't be read") as caught:
        perplexity.read_text(str(tmp_path / "none.txt"))
    assert "--perplexity builtin" in caught.value.fix
    with pytest.raises(ConfigError, match="too short"):
        perplexity.measure([Variant("v", plan)], [5], ("t", "t"), lambda text: None)
