"""A program that fetches again and again: under a limit of the size of files, or killed in the middle.

python fetcher.py disk|kill HUB_URL CACHE ROUNDS SEED
A child is a fork of this process: what it imports is there already, so a hundred of them take seconds.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

from deploykit.errors import DeploykitError
from deploykit.hub import HfRef, ModelScopeRef, fetch, locate
from deploykit.hub import http as http_module
from deploykit.hub import parts as parts_module
from deploykit.hub.modelscope import ModelScopeSource

REFS = (HfRef("owner/name"), ModelScopeRef("owner/name"))


def expected(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def check_nothing_half(cache: Path, ref: HfRef | ModelScopeRef, right: dict[str, bytes]) -> bool:
    """Whether the model is there; if anything of it is visible, all of it is, and right."""
    found = locate([ref], cache=cache)
    models = [p for p in cache.glob("*/*/model/*") if p.is_dir()]
    assert all(expected(p) == right for p in models), "a half model is visible"
    assert not list(cache.glob("*/*/files/*")), "a file is visible"
    assert found is None or expected(found.path) == right
    return found is not None


def reset(cache: Path) -> None:
    for name in ("hf", "modelscope", "staging", "records"):
        shutil.rmtree(cache / name, ignore_errors=True)


def disk(cache: Path, rounds: int, rng: random.Random, right: dict[str, bytes]) -> dict[str, object]:
    """A write fails at a random byte of some file; then there is space again."""
    largest = max(map(len, right.values()))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    failed, slowest = 0, 0.0
    for i in range(rounds):
        ref = REFS[i % 2]
        reset(cache)
        resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(largest), hard))
        began = time.monotonic()
        try:
            fetch([ref], cache=cache)
        except DeploykitError as e:
            failed += 1
            text = str(e)
            named = any(name in text for name in right) and "missing" in text and "are free" in text
            assert named or "the cache can't be written" in text, text
            assert str(cache) in text, text
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        slowest = max(slowest, time.monotonic() - began)
        assert not check_nothing_half(cache, ref, right)
        fetch([ref], cache=cache)
        assert check_nothing_half(cache, ref, right)
        assert list((cache / "staging").iterdir()) == []
    return {"failed": failed, "slowest": round(slowest, 3)}


def kill(cache: Path, rounds: int, rng: random.Random, right: dict[str, bytes]) -> dict[str, object]:
    """SIGKILL at a random moment of a fetch; then the next one, which goes on."""
    whole = resumed = 0
    took = 0.1
    for i in range(rounds):
        ref = REFS[i % 2]
        reset(cache)
        pid = os.fork()
        if pid == 0:
            try:
                fetch([ref], cache=cache)
            finally:
                os._exit(0)
        time.sleep(rng.random() * took)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if check_nothing_half(cache, ref, right):
            whole += 1
        elif any((cache / "staging").rglob("*")) if (cache / "staging").exists() else False:
            resumed += 1
        began = time.monotonic()
        pid = os.fork()  # a new process, as the next start is one
        if pid == 0:
            code = 1
            try:
                fetch([ref], cache=cache)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        took = max(0.05, 0.8 * took + 0.2 * (time.monotonic() - began))
        assert check_nothing_half(cache, ref, right)
        assert list((cache / "staging").iterdir()) == []
    return {"whole": whole, "resumed": resumed}


def main() -> None:
    what, url, folder, rounds, seed = sys.argv[1:]
    import huggingface_hub.hf_api

    _ = huggingface_hub
    os.environ |= {"HF_ENDPOINT": url, "MODELSCOPE_ENDPOINT": url}
    http_module.BACKOFF_S = 0.01
    parts_module.MIN_PART = parts_module.MAX_PART = 64 << 10
    parts_module.CONNECTIONS = 3
    cache = Path(folder)
    right = expected(fetch([REFS[0]], cache=cache).path)
    # ModelScope's SDK is asked once: what is interrupted here is the transfer.
    asked = ModelScopeSource(REFS[1], cache)
    asked.resolve()
    told = asked._told
    ModelScopeSource._ask = lambda self: told  # type: ignore[method-assign, assignment, return-value]
    run = {"disk": disk, "kill": kill}[what]
    print(json.dumps(run(cache, int(rounds), random.Random(int(seed)), right)))


main()
