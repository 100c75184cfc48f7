"""Figures of `deploykit bench --predictions`, and their table."""

from __future__ import annotations

import msgspec

from deploykit.plan.text import format_bytes, format_count
from deploykit.plan.types import MemoryItem

WEIGHTS_BAR = 0.01
BLOCKS_BAR = 0.03
Row = tuple[str, ...]


class Room(msgspec.Struct, frozen=True):
    """Blocks of KV memory in `limit` bytes, by the plan's own figures and by what was measured."""

    limit: int
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        return _error(self.predicted, self.measured)


class Prediction(msgspec.Struct, frozen=True, kw_only=True, tag="prediction"):
    """What the plan said and what the engine then held. Bytes."""

    model: str
    parameters: int
    stored_as: str
    engine: str
    device: str
    dtype: str
    kv_dtype: str
    session_len: int
    max_batch_size: int
    memory: tuple[MemoryItem, ...]  # the plan's table
    weights_predicted: int  # with the tables of tokens
    weights_measured: int  # as the engine counts its own
    block_bytes_predicted: int
    block_bytes_measured: int
    blocks_planned: int
    blocks_allocated: int  # as the engine says
    rest_predicted: int  # everything but KV memory
    rest_measured: int  # of the process, or of the GPU, under load
    ratio: float
    rooms: tuple[Room, ...]  # of the device, and on a CPU of 2 GiB

    @property
    def weights_error(self) -> float:
        return _error(self.weights_predicted, self.weights_measured)

    @property
    def passed(self) -> bool:
        """Whether the bars hold: weights within 1 %, blocks within 3 %."""
        return abs(self.weights_error) <= WEIGHTS_BAR and all(abs(r.error) <= BLOCKS_BAR for r in self.rooms)


def _error(predicted: int, measured: int) -> float:
    """How much too high (+) or too low the prediction was; no measurement is no agreement."""
    return predicted / measured - 1 if measured else float("inf") if predicted else 0.0


def prediction_rows(result: Prediction) -> tuple[str, Row, list[Row]]:
    """(title, head, rows)."""
    title = (
        f"{result.model} ({result.parameters / 1e6:,.0f}M parameters, {result.stored_as}), {result.engine} on "
        f"{result.device}, {result.dtype}, KV {result.kv_dtype}, {result.max_batch_size} rows of "
        f"{format_count(result.session_len)}: {'within the bars' if result.passed else 'NOT within the bars'}"
    )
    rows = [
        _row("weights", result.weights_predicted, result.weights_measured, "1 %"),
        _row("a KV block", result.block_bytes_predicted, result.block_bytes_measured, ""),
        _row("everything but KV", result.rest_predicted, result.rest_measured, ""),
        (
            "KV blocks, allocated",
            format_count(result.blocks_planned),
            format_count(result.blocks_allocated),
            "",
            "",
        ),
    ]
    rows += [
        (
            f"KV blocks that {format_bytes(room.limit)} hold",
            format_count(room.predicted),
            format_count(room.measured),
            f"{room.error:+.2%}",
            "3 %",
        )
        for room in result.rooms
    ]
    return title, ("", "predicted", "measured", "off", "bar"), rows


def _row(name: str, predicted: int, measured: int, bar: str) -> Row:
    return name, format_count(predicted), format_count(measured), f"{_error(predicted, measured):+.2%}", bar
