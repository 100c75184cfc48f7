"""The planner's memory against the engines': the arithmetic, and both engines loaded for real."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from deploykit.bench import tables
from deploykit.bench.predictions import PredictionOptions, check, run_predictions
from deploykit.bench.predictions_report import Prediction, Room, prediction_rows
from deploykit.cli.app import main
from deploykit.errors import ConfigError
from deploykit.plan import PlanError

GIB = 1 << 30


def prediction(**changes: Any) -> Prediction:
    fields: dict[str, Any] = {
        "model": "m",
        "parameters": 10_000_000,
        "stored_as": "bfloat16",
        "engine": "native",
        "device": "cpu",
        "dtype": "bfloat16",
        "kv_dtype": "bfloat16",
        "session_len": 8192,
        "max_batch_size": 16,
        "memory": (),
        "weights_predicted": 1000,
        "weights_measured": 1000,
        "block_bytes_predicted": 64,
        "block_bytes_measured": 64,
        "blocks_planned": 10,
        "blocks_allocated": 10,
        "rest_predicted": 2000,
        "rest_measured": 2000,
        "ratio": 0.8,
        "rooms": (Room(GIB, 100, 100),),
    }
    return Prediction(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"weights_predicted": 1009}, True),
        ({"weights_predicted": 1011}, False),
        ({"weights_predicted": 989}, False),
        ({"rooms": (Room(GIB, 102, 100),)}, True),
        ({"rooms": (Room(GIB, 100, 100), Room(GIB, 96, 100))}, False),  # each of them counts
        ({"weights_measured": 0}, False),  # an engine that says nothing agrees with nothing
        ({"rooms": (Room(GIB, 5, 0),)}, False),
    ],
)
def test_the_bars(changes: dict[str, Any], passed: bool) -> None:
    result = prediction(**changes)
    assert result.passed is passed
    assert prediction_rows(result)[0].endswith("NOT within the bars") is not passed


def test_a_table_says_how_far_off() -> None:
    _, head, rows = prediction_rows(prediction(weights_predicted=1011, rooms=(Room(GIB, 97, 100),)))
    assert head == ("", "predicted", "measured", "off", "bar")
    assert rows[0] == ("weights", "1,011", "1,000", "+1.10%", "1 %")
    assert rows[-1] == ("KV blocks that 1.0 GiB hold", "97", "100", "-3.00%", "3 %")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to predict"),
        ({"target": "m", "shape": "tiny"}, "random weights"),
        ({"shape": "huge"}, "huge"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(PredictionOptions(**options))


def test_the_command_refuses_a_mixture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--predictions", "--shape", "tiny", "--startup"]) == 2
    assert "--predictions is measured by itself" in capsys.readouterr().err
    assert main(["bench", "http://127.0.0.1:1", "--predictions"]) == 2
    assert "a URL" in capsys.readouterr().err


def test_what_no_engine_can_keep_is_refused() -> None:
    with pytest.raises(PlanError, match="fp8"):
        list(run_predictions(PredictionOptions(shape="tiny", kv=("fp8",)), lambda _: None))


def test_both_engines_hold_what_was_planned() -> None:
    options = PredictionOptions(shape="tiny", sets=("engine.session_len=1024", "engine.max_batch_size=4"))
    said: list[str] = []
    results = list(run_predictions(options, said.append))
    assert [result.engine for result in results] == ["native", "pytorch"]
    for result in results:
        assert result.weights_measured > 24 << 20  # two tables of 48,128 x 128 in 16 bits
        assert abs(result.weights_error) < 0.01
        assert result.blocks_allocated == result.blocks_planned == 4 * 16
        assert result.block_bytes_measured == result.block_bytes_predicted == 64 * 2 * 2 * 64 * 2
        assert abs(result.rooms[0].error) < 0.03
        assert result.rest_measured > result.weights_measured
        assert msgspec.json.decode(msgspec.json.encode(result), type=Prediction) == result
        title, _, rows = tables.rows_of(result)
        assert "tiny" in title
        assert len(rows) == 4 + len(result.rooms)
    assert any("within" in line or "off by" in line for line in said)
