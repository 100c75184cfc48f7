"""The binding of libdeploykit_engine over the null device: what it takes, what it gives, and what it refuses."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from native_binding import BLOCK_LEN, OPTIONS, VOCAB, admit, make_engine, model, open_native

from deploykit.engine.types import Extend, Release, Trim, pack, unpack

ONE = pack([1])


@pytest.fixture(scope="module")
def native() -> ModuleType:
    return open_native()


@pytest.fixture
def engine(native: ModuleType) -> Any:
    return make_engine(native)


def run(engine: Any, seq: int, rows: list[int], counts: list[int], flags: list[int], **parts: Any) -> Any:
    arrays = (pack(rows), pack([1] * len(rows)), pack(counts), pack(flags))
    engine.launch(seq, *arrays, **parts)
    return engine.collect(seq)


def refused(native: ModuleType, code: str = "invalid") -> Any:
    return pytest.raises(native.NativeError, check=lambda error: error.code == code)


# ---------------------------------------------------------------- facts


def test_facts(native: ModuleType) -> None:
    assert native.abi_version() == native.ABI_VERSION
    assert {"cpu", "null"} <= set(native.built_devices())
    assert native.cpu_isas()[-1] == "scalar"
    assert isinstance(native.SOURCE_HASH, str)
    assert issubclass(native.NativeError, RuntimeError)


def test_descriptions_are_read_strictly(native: ModuleType) -> None:
    native.validate(model())
    changes: tuple[dict[str, Any], ...] = (
        {"hidden": "16"},
        {"hidden": 2**40},
        {"hidden": None},
        {"tied": 1},
        {"hiden": 16},
        {"norm": {"kind": "batch"}},
        {"norm": []},
        {"layers": 7},
        {"layers": [{"attention": {"head": 2}}]},
        {"ropes": [{"inv_freq": ["a"]}]},
    )
    for change in changes:
        with refused(native):
            native.validate({**model(), **change})
    with refused(native):
        native.validate([])
    with pytest.raises(native.NativeError, match=r"layers\[0\]\.attention\.qk_norm.*none, head, full"):
        native.validate({**model(), "layers": [{"attention": {"qk_norm": "both"}}]})


def test_sizes(native: ModuleType) -> None:
    needed = native.required_weights(model())
    assert needed[0] == {"name": "embed.weight", "format": "f32", "rows": VOCAB, "cols": 16, "group": 0}
    assert native.stored_bytes({"name": "w", "format": "q4_1", "rows": 3, "cols": 64}) == (120, 0, 0)
    assert native.kv_block_bytes(model(), "bf16", 16, "null") == 128
    assert native.kv_block_bytes(model(), "bf16", 16, "cpu") > 0
    with refused(native):
        native.kv_block_bytes(model(), "int3", 16, "cpu")


def test_options_are_read_strictly(native: ModuleType) -> None:
    for change in ({"kv": "int5"}, {"block_len": 0}, {"treads": 2}, {"max_rows": -1}, {"device": "tpu"}):
        with refused(native):
            native.Engine(model(), [], {**OPTIONS, **change})
    if "cuda" not in native.built_devices():
        with refused(native, "unsupported"):
            native.Engine(model(), [], {**OPTIONS, "device": "cuda"})


# ---------------------------------------------------------------- weights


def test_weights_come_as_they_are_stored(native: ModuleType) -> None:
    manifest = [
        {"name": "a", "format": "f32", "rows": 2, "cols": 3},
        {"name": "b", "format": "bf16", "rows": 1, "cols": 4},
        {"name": "c", "format": "q8_0", "rows": 1, "cols": 32},
        {"name": "d", "format": "awq", "rows": 16, "cols": 64, "group": 32},
        {"name": "e", "format": "int8", "rows": 2, "cols": 2},
    ]
    engine = native.Engine(model(), manifest, OPTIONS)
    words, scales = np.zeros((64, 2), np.int32), np.zeros((2, 16), np.float16)
    zeros = np.zeros((2, 2), np.int32)
    bad: list[tuple[Any, ...]] = [
        ("nobody", bytes(24)),
        ("a", bytes(23)),
        ("a", None),
        ("a", 7),
        ("a", "text"),
        ("a", np.zeros((2, 3), np.float64)),
        ("a", np.zeros((2, 3), np.int32)),
        ("a", np.zeros((3, 2), np.float32).T),
        ("a", np.zeros((2, 6), np.float32)[:, ::2]),
        ("a", np.zeros((2, 3), ">f4")),
        ("a", np.zeros((2, 3), "f4,f4")),
        ("a", bytes(24), bytes(1)),
        ("b", np.zeros(4, np.float16)),
        ("c", np.zeros(34, np.int8)),
        ("d", words, None, zeros),
        ("d", words, scales, zeros.view(np.float32)),
        ("d", words, scales, zeros, 1),
        ("e", np.zeros((2, 2), np.int8)),
    ]
    for arguments in bad:
        with refused(native):
            engine.load_weight(*arguments)
    engine.load_weight("a", np.zeros((2, 3), np.float32))
    engine.load_weight("b", np.zeros(4, np.uint16))
    engine.load_weight("c", memoryview(bytes(34)))
    engine.load_weight("d", words, scales, zeros)
    with refused(native, "missing"):
        engine.finish_loading()
    engine.load_weight("e", np.zeros((2, 2), np.int8), np.zeros(2, np.float32))
    with refused(native):
        engine.load_weight("a", np.zeros((2, 3), np.float32))
    capacity = engine.finish_loading()
    assert capacity["vocab"] == VOCAB
    assert capacity["overlap_depth"] == 0


def test_a_memory_map_is_read_in_place(native: ModuleType, tmp_path: Any) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(4 + 48))
    view = np.memmap(path, dtype=np.float32, mode="r", offset=4, shape=(3, 4))
    engine = native.Engine(model(), [{"name": "w", "format": "f32", "rows": 3, "cols": 4}], OPTIONS)
    engine.load_weight("w", view)
    engine.finish_loading()


# ---------------------------------------------------------------- steps


def test_a_request_from_prompt_to_end(engine: Any) -> None:
    extends = (Extend(0, 1, 0, (5, 3)),)
    parts = {"admits": (admit(0, [1, 2, 3], limit=6, logprobs=2),), "extends": extends}
    offsets, tokens, finish, logprobs, prompt_logprobs, pooled, failures, *seconds = run(
        engine, 1, [0], [3], [1], **parts
    )
    assert unpack(offsets).tolist() == [0, 1]
    assert unpack(finish).tolist() == [0]
    assert (prompt_logprobs, pooled, failures) == ({}, {}, ())
    assert all(second >= 0 for second in seconds)
    ((token, logprob, rank, top),) = logprobs[0]
    assert unpack(tokens).tolist() == [token]
    assert rank == 1
    assert logprob < 0
    assert [best for best, _ in top] == [token, top[1][0]]
    run(engine, 2, [0], [1], [1])
    assert unpack(run(engine, 3, [0], [1], [1])[2]).tolist() == [2]
    assert run(engine, 4, [0], [1], [1])[1] == b""


def test_everything_that_a_row_may_ask_for(engine: Any) -> None:
    table = tuple(Extend(row, 1, 0, (row,)) for row in range(4))
    prompts = tuple(admit(row, [1, 2, 3, 4], prompt_logprobs=1) for row in range(4))
    mask = np.zeros(-(-VOCAB // 32), np.uint32)
    mask[1] = 1 << 3
    arrays = (pack([0, 1, 2, 3]), ONE * 4, pack([4] * 4), pack([1 | 2, 4 | 1, 8, 16]))
    engine.launch(1, *arrays, admits=prompts, extends=table)
    engine.sample(1, {0: mask})
    offsets, tokens, _, _, prompt_logprobs, pooled, failures, *_ = engine.collect(1)
    assert failures == ()
    assert unpack(offsets).tolist() == [0, 1, 2, 2, 2]
    assert unpack(tokens)[0] == 35
    assert [one[0] for one in prompt_logprobs[1]] == [2, 3, 4] == [one[0] for one in prompt_logprobs[2]]
    assert len(pooled[3]) == 16 * 4
    assert np.isfinite(np.frombuffer(pooled[3], np.float32)).all()


def test_failures_name_their_row(engine: Any) -> None:
    extends = (Extend(0, 1, 0, (0,)), Extend(1, 1, 0, (1,)))
    admits = (admit(0, [1, 2]), admit(1, [1, VOCAB]))
    result = run(engine, 1, [0, 1], [2, 2], [1, 1], admits=admits, extends=extends)
    assert unpack(result[0]).tolist() == [0, 1, 1]
    ((row, epoch, code, reason),) = result[6]
    assert (row, epoch, code) == (1, 1, "invalid")
    assert str(VOCAB) in reason


def test_what_the_engine_does_not_serve(engine: Any) -> None:
    import msgspec

    sound = admit(0, [1, 2])
    several_axes = msgspec.structs.replace(sound, positions=pack([0, 1] * 3))
    for change in (
        msgspec.structs.replace(sound, adapter="lora"),
        msgspec.structs.replace(sound, grammar=0),
        several_axes,
    ):
        released = (Release(0, 1),)
        result = run(engine, 1, [0], [2], [1], releases=released, admits=(change,), extends=())
        assert [failure[2] for failure in result[6]] == ["unsupported"]


def test_malformed_steps(native: ModuleType, engine: Any) -> None:
    sound = {"rows": ONE, "epochs": ONE, "num_tokens": ONE, "flags": ONE}
    for change in (
        {"rows": b"123"},
        {"rows": np.ones(1, np.int64)},
        {"rows": np.ones(1, np.float32)},
        {"rows": np.ones(4, np.int32)[::2]},
        {"rows": [1]},
        {"flags": b""},
        {"rows": pack([99])},
        {"iterations": 0},
        {"iterations": 2**40},
        {"iterations": "1"},
        {"admits": 3},
        {"admits": (Extend(0, 1, 0, ()),)},
        {"extends": (Extend(0, 1, 0, (2**31,)),)},
        {"extends": (Extend(0, 1, 0, (-1,)),)},
        {"extends": (Extend(0, 1, 1, ()),)},
        {"trims": (Trim(0, 1, 0, 1),)},
        {"releases": (object(),)},
    ):
        with refused(native):
            engine.launch(1, **{**sound, **change})
    engine.launch(1, **sound)
    with refused(native):
        engine.sample(1, {0: np.zeros(3, np.float32)})
    with refused(native):
        engine.sample(1, {0: b"12345"})
    assert [failure[2] for failure in engine.collect(1)[6]] == ["internal"]
    with refused(native):
        engine.collect(1)


def test_embeddings(native: ModuleType, engine: Any) -> None:
    import msgspec

    from deploykit.engine.types import Span

    engine.put_embeddings("image", np.zeros((2, 16), np.float32))
    spanned = msgspec.structs.replace(admit(0, [1, 2, 3]), spans=(Span(1, 2, "image"),))
    parts = {"admits": (spanned,), "extends": (Extend(0, 1, 0, (0,)),)}
    assert run(engine, 1, [0], [3], [1], **parts)[6] == ()
    engine.drop_embeddings("image")
    result = run(engine, 2, [0], [3], [1], releases=(Release(0, 1),), **parts)
    assert [failure[2] for failure in result[6]] == ["invalid"]
    for data in (np.zeros((2, 16), np.float64), np.zeros((2, 15), np.float32), b"", None):
        with refused(native):
            engine.put_embeddings("image", data)


def test_threads_wait_for_each_other(native: ModuleType) -> None:
    """The interpreter lock is not held while the engine works: the engine's own lock keeps its calls apart."""
    engine = make_engine(native)
    seen: list[str] = []

    def work() -> None:
        for seq in range(200):
            try:
                engine.launch(seq, b"", b"", b"", b"")
                engine.collect(seq)
            except native.NativeError as error:
                seen.append(error.code)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) <= {"invalid"}


def test_a_closed_engine(native: ModuleType) -> None:
    engine = make_engine(native)
    engine.close()
    engine.close()
    with refused(native):
        engine.collect(1)
    assert BLOCK_LEN == 8
