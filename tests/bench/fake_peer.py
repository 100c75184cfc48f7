"""A peer that speaks the protocol of peer_main.py and answers with made-up times: `fake_peer.py LOG [FAULT]`.

Every request goes to the file LOG, a line each. FAULT: `missing` (its package isn't there), `crash` (it ends at the
first run), `mute` (it answers no event), `short` (an error at the first run).
"""

from __future__ import annotations

import json
import sys

# setting -> (prefill seconds a token, decode seconds a token, tokens a second of a batch)
SPEEDS = {"fast prefill": (0.001, 0.02, 100.0), "fast decode": (0.004, 0.01, 200.0)}


def main() -> None:
    log, fault = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
    setting = ""
    for line in sys.stdin:
        request = json.loads(line)
        op = request["op"]
        with open(log, "a") as file:
            file.write(json.dumps({**request, "setting": setting or request.get("setting")}) + "\n")
        if op == "hello":
            reply = {"event": "hello", "name": "fake", "version": "fake 1.0"}
            if fault == "missing":
                reply = {"event": "error", "missing": True, "what": "No module named 'fake'"}
        elif op == "prepare":
            names = [{"name": name, "jobs": ["single", "batch"]} for name in SPEEDS]
            reply = {"event": "prepared", "settings": names}
        elif op == "load":
            setting = request["setting"]
            reply = {"event": "ready", "vocab_size": None, "kv_dtype": "f16"}
        elif fault == "crash":
            sys.exit("the fake peer is out of memory")
        elif fault == "mute":
            reply = {"what": "no event"}
        elif fault == "short":
            reply = {"event": "error", "what": "RuntimeError: made [1] tokens instead of 4"}
        else:
            prefill, decode, rate = SPEEDS[setting]
            out = request["output_len"]
            if op == "single":
                reply = {
                    "event": "single",
                    "prefill_s": prefill * len(request["prompt"]),
                    "decode_s": decode * (out - 1),
                    "tokens": [7] * out,
                }
            else:
                made = out * len(request["prompts"])
                reply = {"event": "batch", "seconds": made / rate, "output_tokens": made}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
