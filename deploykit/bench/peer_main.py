"""One peer behind JSON lines: `PYTHON peer_main.py llamacpp|openvino`, with a Python that has the peer's package.

Run by its path, so that a peer may live in an environment of its own: nothing here needs deploykit. Reads one object
a line from stdin and answers one on stdout; the end of stdin ends it.

    {"op": "hello"}                                        -> {"event": "hello", "name", "version"}
    {"op": "prepare", "model_path", "plain", "folder"}     -> {"event": "prepared", "settings": [{"name", "jobs"}]}
    {"op": "load", "model_path", "folder", "setting", "threads", "context", "sequences"}
                                                           -> {"event": "ready", "vocab_size", "kv_dtype"}
    {"op": "single", "prompt": [id], "output_len"}         -> {"event": "single", "prefill_s", "decode_s", "tokens"}
    {"op": "batch", "prompts": [[id]], "output_len"}       -> {"event": "batch", "seconds", "output_tokens"}

Anything that goes wrong is {"event": "error", "what"}, with `"missing": true` where a package isn't installed.
`plain` is a folder in Hugging Face's layout with the dequantized weights, or null; `folder` is the peer's cache.
A setting is one of the ways that the peer can run the model; `jobs` says whether it takes `single`, `batch` or both.
`context` counts the tokens of one sequence, `sequences` those that run at once. `prefill_s` goes to the first token,
`decode_s` from there to the last one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent


def load_peer(name: str) -> Any:
    """The class `Peer` of peer_NAME.py beside this file."""
    spec = importlib.util.spec_from_file_location(f"peer_{name}", HERE / f"peer_{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no peer_{name}.py beside {__file__}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Peer


def answer(peer: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request. Raises whatever the peer raises."""
    op = request["op"]
    if op == "hello":
        return {"event": "hello", "name": peer.name, "version": peer.version()}
    if op == "prepare":
        settings = peer.prepare(request["model_path"], request["plain"], request["folder"])
        return {"event": "prepared", "settings": settings}
    if op == "load":
        keys = ("model_path", "folder", "setting", "threads", "context", "sequences")
        return {"event": "ready", **peer.load(**{key: request[key] for key in keys})}
    if op == "single":
        prefill_s, decode_s, tokens = peer.single(request["prompt"], request["output_len"])
        _whole([len(tokens)], request["output_len"])
        return {"event": "single", "prefill_s": prefill_s, "decode_s": decode_s, "tokens": tokens}
    if op == "batch":
        seconds, lengths = peer.batch(request["prompts"], request["output_len"])
        _whole(lengths, request["output_len"])
        return {"event": "batch", "seconds": seconds, "output_tokens": sum(lengths)}
    raise ValueError(f"unexpected request {op!r}")


def _whole(lengths: list[int], output_len: int) -> None:
    if any(length != output_len for length in lengths):
        raise RuntimeError(f"made {lengths} tokens instead of {output_len}")


def serve(peer: Any, stdin: TextIO, stdout: TextIO) -> None:
    """Answer requests until stdin ends."""
    for line in stdin:
        try:
            reply = answer(peer, json.loads(line))
        except ImportError as error:
            reply = {"event": "error", "missing": True, "what": str(error)}
        except Exception as error:  # the other side must hear of every failure
            reply = {"event": "error", "what": f"{type(error).__name__}: {error}"}
        stdout.write(json.dumps(reply) + "\n")
        stdout.flush()


def main() -> None:
    # Running a file by its path puts its folder first, where our modules' names could hide somebody else's.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    # Libraries print to stdout: they get stderr, the protocol keeps the real one.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(load_peer(sys.argv[1])(), sys.stdin, answers)


if __name__ == "__main__":
    main()
