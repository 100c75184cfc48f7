"""Writes sampling.json: what `docs/sampling.md` says, computed along a path of its own.

Plain Python on lists, `math.fsum` for sums, float32 by `struct`; it shares nothing with
`deploykit.engine.sampling`, so that the two check each other. Run: `python tests/golden/make_sampling.py`.
"""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

MARGIN = 1e-4  # least distance of u, top_p and min_p from the boundaries that decide
Case = dict[str, Any]


def f32(value: float) -> float:
    """Rounded to float32; too large becomes infinite."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def make_logits(spec: dict[str, int], patch: dict[str, str]) -> list[float]:
    vocab, a, m, d, ties = (spec[key] for key in ("vocab", "a", "m", "d", "ties"))
    x = [((((i + 1) * a * 2654435761) % 2**32 // 2**16) % m - m // 2) / d for i in range(vocab)]
    if ties:
        x = [x[0] if i % ties == 0 else value for i, value in enumerate(x)]
    for index, value in patch.items():
        x[int(index)] = float(value)
    return x


def philox(key: list[int], counter: list[int]) -> list[int]:
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            second // 2**32 ^ counter[1] ^ key[0],
            second % 2**32,
            first // 2**32 ^ counter[3] ^ key[1],
            first % 2**32,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def uniform(seed: int, position: int) -> float:
    words = philox([seed % 2**32, seed // 2**32], [position, 0, 0, 0])
    return (words[0] * 2**20 + words[1] // 2**12 + 0.5) / 2**52


class Fails(Exception):
    pass


class Ambiguous(Exception):
    """A boundary is too near: the case is made again with other logits."""


def processed(raw: list[float], case: Case) -> list[float]:
    p = case["params"]
    prompt, output = case["prompt_ids"], case["output_ids"]
    if not all(math.isfinite(v) for v in raw):
        raise Fails("nonfinite_logits")
    x = list(raw)
    for key, bias in p.get("logit_bias", {}).items():
        if int(key) not in range(len(x)):
            raise Fails("invalid")
        x[int(key)] = f32(x[int(key)] + f32(bias))
    r = f32(p.get("repetition_penalty", 1.0))
    for token in sorted(set(prompt) | set(output)) if r != 1 else ():
        x[token] = f32(x[token] / r) if x[token] > 0 else f32(x[token] * r)
    for token in sorted(set(output)):
        x[token] = f32(x[token] - f32(output.count(token) * f32(p.get("frequency_penalty", 0.0))))
        x[token] = f32(x[token] - f32(p.get("presence_penalty", 0.0)))
    if any(math.isnan(v) or v == math.inf for v in x):
        raise Fails("nonfinite_logits")
    banned: set[int] = set()
    if len(output) < p.get("min_tokens", 0):
        banned |= set(case["eos_ids"]) | set(p.get("stop_token_ids", ()))
    known = prompt + output
    for word in p.get("bad_words", ()):
        head = word[:-1]
        if not head or known[-len(head) :] == head:
            banned.add(word[-1])
    if case["mask"] is not None:
        banned |= {i for i in range(len(x)) if not case["mask"][i // 32] >> (i % 32) & 1}
    x = [-math.inf if i in banned else v for i, v in enumerate(x)]
    if all(v == -math.inf for v in x):
        raise Fails("no_token")
    return x


def choose(x: list[float], case: Case) -> tuple[int, list[int], float]:
    """Token, kept ids, margin."""
    p = case["params"]
    temperature = p.get("temperature", 1.0)
    live = sorted((i for i in range(len(x)) if x[i] > -math.inf), key=lambda i: (-x[i], i))
    if temperature == 0:
        return live[0], [live[0]], 1.0
    if 0 < p.get("top_k", 0) < len(live):
        kth = x[live[p["top_k"] - 1]]
        live = [i for i in live if x[i] >= kth]
    best = x[live[0]]
    weight = {i: math.exp((x[i] - best) / temperature) for i in live}
    total = math.fsum(weight.values())
    kept = live
    if (top_p := p.get("top_p", 1.0)) < 1:
        kept = []
        for i in live:
            ahead = math.fsum(weight[j] for j in live if x[j] > x[i]) / total
            if ahead:  # 0 is exact
                near(ahead, top_p)
            if ahead < top_p:
                kept.append(i)
            else:
                break
    if min_p := p.get("min_p", 0.0):
        for i in kept:
            if weight[i] != 1:  # a tie with the best is exact
                near(weight[i], min_p)
        kept = [i for i in kept if weight[i] >= min_p]
    kept = sorted(kept)
    total = math.fsum(weight[i] for i in kept)
    u = uniform(case["seed"], len(case["output_ids"]))
    token, margin = kept[-1], 1.0
    edges = [math.fsum(weight[i] for i in kept[: n + 1]) / total for n in range(len(kept))]
    for i, edge in reversed(list(zip(kept, edges, strict=True))):
        if edge > u:
            token = i
    if len(kept) > 1:
        margin = min(abs(u - edge) for edge in edges[:-1])
    if margin < MARGIN:
        raise Ambiguous
    return token, kept, margin


def near(value: float, boundary: float) -> None:
    if abs(value - boundary) < MARGIN:
        raise Ambiguous


def logprob(raw: list[float], token: int, k: int) -> dict[str, Any]:
    best = max(raw)
    log_total = best + math.log(math.fsum(math.exp(v - best) for v in raw))
    order = sorted(range(len(raw)), key=lambda i: (-raw[i], i))
    return {
        "logprob": raw[token] - log_total,
        "rank": order.index(token) + 1,
        "top": [[i, raw[i] - log_total] for i in order[:k]],
    }


def runs(ids: list[int]) -> list[list[int]]:
    """Ascending ids as inclusive runs: [1, 2, 3, 7] -> [[1, 3], [7, 7]]."""
    out: list[list[int]] = []
    for i in ids:
        if out and out[-1][1] == i - 1:
            out[-1][1] = i
        else:
            out.append([i, i])
    return out


def finish(name: str, **given: Any) -> Case:
    """One case with its expectation; logits are varied until no boundary is near."""
    spec = {"vocab": 256, "a": 1, "m": 4001, "d": 256, "ties": 0} | given.pop("logits", {})
    case: Case = {
        "name": name,
        "logits": spec,
        "patch": {},
        "params": {},
        "prompt_ids": [],
        "output_ids": [],
        "eos_ids": [],
        "mask": None,
        "seed": 0,
    } | given
    for _ in range(500):
        raw = make_logits(spec, case["patch"])
        try:
            token, kept, margin = choose(processed(raw, case), case)
        except Fails as error:
            case["expected"] = {"error": str(error)}
            return case
        except Ambiguous:
            spec["a"] += 2
            continue
        found = logprob(raw, token, case["params"].get("logprobs", 0))
        case["expected"] = {"token": token, "kept": runs(kept), "margin": margin, **found}
        return case
    raise SystemExit(f"{name}: every variant is too near a boundary")


def mask_of(vocab: int, allowed: set[int]) -> list[int]:
    words = [0] * ((vocab + 31) // 32)
    for i in allowed:
        words[i // 32] |= 1 << (i % 32)
    return words


def single_cases() -> list[Case]:
    """Each parameter alone."""
    cases: list[Case] = []

    def add(name: str, **given: Any) -> None:
        cases.append(finish(name, **given))

    for vocab in (64, 100, 257, 1000):
        add(f"greedy/vocab{vocab}", logits={"vocab": vocab}, params={"temperature": 0, "logprobs": 5})
    add(
        "greedy/ties",
        logits={"ties": 3},
        patch={str(i): "9" for i in range(0, 256, 3)},
        params={"temperature": 0},
    )
    add("greedy/all-equal", logits={"m": 1}, params={"temperature": 0, "logprobs": 4})
    for seed in (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 0x0123456789ABCDEF):
        add(f"seed/{seed}", seed=seed, params={"logprobs": 2})
    for position in (1, 2, 17, 300):
        add(f"position/{position}", seed=7, output_ids=[(3 * i) % 200 for i in range(position)])
    for temperature in (1e-6, 0.1, 0.3, 0.7, 1.3, 2.0):
        add(f"temperature/{temperature}", seed=11, params={"temperature": temperature})
    for k in (1, 2, 5, 40, 255, 256, 5000):
        add(f"top_k/{k}", seed=k, params={"top_k": k})
    for k in (1, 3, 90):
        add(
            f"top_k/ties/{k}",
            seed=k + 5,
            logits={"ties": 7},
            patch={"0": "8.0"} | ties(7),
            params={"top_k": k},
        )
    for top_p in (1e-9, 0.1, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99):
        add(f"top_p/{top_p}", seed=13, params={"top_p": top_p})
    for top_p in (0.02, 0.4, 0.9):
        add(f"top_p/ties/{top_p}", seed=5, logits={"ties": 9}, patch=ties(9), params={"top_p": top_p})
    add("top_p/coarse", seed=3, logits={"m": 9, "d": 2}, params={"top_p": 0.42})  # many ties everywhere
    for min_p in (0.001, 0.05, 0.2, 0.7, 1.0):
        add(f"min_p/{min_p}", seed=17, params={"min_p": min_p})
    add("min_p/ties", seed=17, logits={"ties": 11}, patch=ties(11), params={"min_p": 1.0})
    ids = [5, 9, 9, 200, 31, 77, 5]
    for r in (0.8, 1.05, 1.3, 2.0):
        add(
            f"repetition/{r}",
            seed=19,
            prompt_ids=ids,
            output_ids=[9, 100, 101],
            params={"repetition_penalty": r},
        )
        add(
            f"repetition/greedy/{r}",
            prompt_ids=list(range(0, 256, 2)),
            output_ids=[1, 3],
            params={"repetition_penalty": r, "temperature": 0},
        )
    for f in (-2.0, -0.3, 0.1, 0.7, 2.0):
        add(f"frequency/{f}", seed=23, prompt_ids=ids, output_ids=ids * 3, params={"frequency_penalty": f})
        add(f"presence/{f}", seed=29, prompt_ids=[1], output_ids=ids, params={"presence_penalty": f})
    greedy = {"temperature": 0, "frequency_penalty": -2.0}
    add("frequency/greedy", output_ids=[4, 4, 4, 4, 4, 4, 4, 4, 4, 8], params=greedy)
    add("logit_bias/force", seed=1, params={"logit_bias": {"99": 100}})
    add("logit_bias/ban", params={"logit_bias": {"99": 100, "98": 100.5}, "temperature": 0})
    add("logit_bias/several", seed=31, params={"logit_bias": {"0": 5.5, "17": 4.25, "255": -100, "3": 6.1}})
    top = {"77": "20", "78": "19", "79": "18"}
    for tokens, outputs in ((0, 0), (1, 0), (3, 2), (3, 3)):
        add(
            f"min_tokens/{tokens}-after-{outputs}",
            patch=top,
            output_ids=[1] * outputs,
            eos_ids=[77],
            params={"temperature": 0, "min_tokens": tokens, "stop_token_ids": [78, 4000]},
        )
    add(
        "min_tokens/drawn",
        seed=37,
        patch=top,
        eos_ids=[77, 78],
        params={"min_tokens": 1, "stop_token_ids": [79]},
    )
    greedy = {"temperature": 0}
    add("bad_words/one", patch=top, params=greedy | {"bad_words": [[77]]})
    add("bad_words/two", patch=top, output_ids=[5], params=greedy | {"bad_words": [[5, 77], [6, 78]]})
    add("bad_words/not-met", patch=top, output_ids=[6], params=greedy | {"bad_words": [[5, 77]]})
    three = {"bad_words": [[1, 2, 77], [2, 78], [9, 9, 9, 79]]}
    add("bad_words/across", patch=top, prompt_ids=[1], output_ids=[2], params=greedy | three)
    add("bad_words/prompt", patch=top, prompt_ids=[1, 2], params=greedy | three)
    add("bad_words/short", patch=top, prompt_ids=[2], params=greedy | three)
    add("bad_words/drawn", seed=41, patch=top, prompt_ids=[9, 9, 9], params=three)
    for vocab in (64, 77, 1000):
        some = {i for i in range(vocab) if i % 5 == 2 or i == vocab - 1}
        add(f"mask/{vocab}", seed=43, logits={"vocab": vocab}, mask=mask_of(vocab, some))
        add(f"mask/one/{vocab}", seed=43, logits={"vocab": vocab}, mask=mask_of(vocab, {vocab - 2}))
    add("mask/greedy", mask=mask_of(256, {3, 64, 65, 130}), params={"temperature": 0, "logprobs": 3})
    # bits past the vocabulary mean nothing
    add("mask/past-end", logits={"vocab": 70}, mask=[0, 0, 0xFFFFFF20], params={"temperature": 0})
    add("error/no_token/mask", mask=mask_of(256, set()))
    word = {"bad_words": [[8]], "temperature": 0}
    add("error/no_token/mask-and-word", mask=mask_of(256, {8}), params=word)
    for value in ("nan", "inf", "-inf"):
        add(f"error/nonfinite/{value}", patch={"200": value})
    add("error/nonfinite/overflow", patch={"9": "3e38"}, prompt_ids=[9], params={"repetition_penalty": 0.001})
    add("error/invalid/bias", params={"logit_bias": {"256": 1.0}})
    for k in (0, 1, 5, 20):
        add(f"logprobs/{k}", seed=47, params={"logprobs": k})
    add("logprobs/ties", seed=53, logits={"ties": 5}, patch=ties(5), params={"logprobs": 7})
    return cases


def ties(every: int) -> dict[str, str]:
    """Patches a group of equal high logits over 256 tokens."""
    return {str(i): "7.5" for i in range(0, 256, every)}


def mixed_cases(count: int) -> list[Case]:
    """Parameters together, drawn from a fixed stream."""
    rng = random.Random(20240601)
    cases = []
    for number in range(count):
        vocab = rng.choice((64, 100, 128, 257, 512, 1000))
        maybe = {
            "temperature": rng.choice((0.25, 0.6, 0.8, 1.0, 1.2, 1.8)),
            "top_k": rng.choice((0, 3, 10, 50)),
            "top_p": rng.choice((0.35, 0.7, 0.92)),
            "min_p": rng.choice((0.02, 0.1, 0.3)),
            "repetition_penalty": rng.choice((0.9, 1.1, 1.5)),
            "frequency_penalty": rng.choice((-0.5, 0.25, 1.0)),
            "presence_penalty": rng.choice((-0.5, 0.4, 1.5)),
            "logit_bias": {str(rng.randrange(vocab)): rng.choice((-3.5, 2.25, 6.0)) for _ in range(3)},
            "bad_words": [[rng.randrange(vocab)], [1, rng.randrange(vocab)]],
            "min_tokens": rng.choice((1, 4, 9)),
            "stop_token_ids": [rng.randrange(vocab)],
            "logprobs": rng.choice((0, 1, 4)),
        }
        params = {key: value for key, value in maybe.items() if rng.random() < 0.55}
        masked = rng.random() < 0.3
        cases.append(
            finish(
                f"mixed/{number}",
                logits={
                    "vocab": vocab,
                    "a": 2 * rng.randrange(1, 5000) + 1,
                    "m": rng.choice((33, 801, 4001)),
                    "d": rng.choice((8, 128, 256)),
                    "ties": rng.choice((0, 0, 0, 13)),
                },
                params=params,
                prompt_ids=[rng.randrange(vocab) for _ in range(rng.randrange(1, 30))],
                output_ids=[rng.randrange(vocab) for _ in range(rng.randrange(8))] + [1],
                eos_ids=[rng.randrange(vocab)],
                mask=mask_of(vocab, {i for i in range(vocab) if rng.random() < 0.6}) if masked else None,
                seed=rng.getrandbits(64),
            )
        )
    return cases


def main() -> None:
    cases = single_cases() + mixed_cases(80)
    body = ",\n".join(json.dumps(case, allow_nan=False, separators=(",", ":")) for case in cases)
    path = Path(__file__).with_name("sampling.json")
    path.write_text(f'{{"version":1,"cases":[\n{body}\n]}}\n', encoding="utf-8")
    print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
