"""Commands of other servers, and what somebody who types one of them here meant."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from .entry import Foreign
from .outside import Row

_NO_LITE = "take a checkpoint that is quantized already (`model.format`)"
_NO_ROUTER = "one deployment is one engine: any HTTP load balancer shares requests out among several"
_ANY = "also of a folder, a `.gguf` file or a hub id; `-d` runs it in the background"
_ON_DEMAND = "a deployment serves one model; nothing is loaded on demand"

_L, _V, _S, _O, _T = (partial(Row, owner) for owner in ("LMDeploy", "vLLM", "SGLang", "Ollama", "TGI"))

# fmt: off
COMMANDS = (
    _L(("lmdeploy serve api_server",), "`deploykit up RECIPE`", _ANY, "MODEL"),
    _L(("lmdeploy chat",), "`deploykit chat RECIPE`", "talks to a running deployment where there is one", "MODEL"),
    _L(("lmdeploy check_env",), "`deploykit doctor`", "judges each finding, and says how to fix it"),
    _L(("lmdeploy list",), "`deploykit templates list`", "the chat templates; recipes are `deploykit ls`"),
    _L(("lmdeploy serve proxy",), "", _NO_ROUTER),
    _L(("lmdeploy serve gradio",), "", "there is no web page: `deploykit chat` in a terminal"),
    _L(("lmdeploy serve api_client",), "`deploykit chat URL`"),
    _L(("lmdeploy lite auto_awq", "lmdeploy lite auto_gptq", "lmdeploy lite smooth_quant", "lmdeploy lite calibrate",
        "lmdeploy lite kv_qparams"), "", _NO_LITE),
    _L(("lmdeploy convert",), "", "checkpoints are loaded as they are; `deploykit convert` is for pickled weights"),
    _V(("vllm serve",), "`deploykit up RECIPE`", _ANY, "MODEL"),
    _V(("vllm serve --config FILE",), "`deploykit up RECIPE`", "`deploykit validate` translates such a file's names"),
    _V(("vllm chat", "vllm complete"), "`deploykit chat URL`"),
    _V(("vllm bench serve",), "`deploykit bench URL`", "`--dataset FILE.json` takes ShareGPT's format"),
    _V(("vllm bench throughput", "vllm bench latency"), "`deploykit bench RECIPE`"),
    _V(("vllm run-batch",), "", "a program asks the endpoint, or `deploykit.pipeline` with a list of prompts"),
    _V(("vllm collect-env",), "`deploykit doctor --json`"),
    _S(("python -m sglang.launch_server", "sglang serve"), "`deploykit up RECIPE`", _ANY, "--model-path MODEL"),
    _S(("python -m sglang.bench_serving",), "`deploykit bench URL`"),
    _S(("python -m sglang.bench_one_batch", "python -m sglang.bench_offline_throughput"), "`deploykit bench RECIPE`"),
    _S(("python -m sglang.check_env",), "`deploykit doctor`"),
    _S(("python -m sglang_router.launch_router",), "", _NO_ROUTER),
    _O(("ollama serve",), "`deploykit up RECIPE`", _ON_DEMAND),
    _O(("ollama run",), "`deploykit chat RECIPE`", "starts the model where it doesn't run yet", "MODEL"),
    _O(("ollama create",), "a recipe", "it is read where it stands; `deploykit init MODEL` writes one", "-f Modelfile"),
    _O(("ollama pull",), "`deploykit pull RECIPE`", "", "MODEL"),
    _O(("ollama push",), "", "no model is uploaded anywhere"),
    _O(("ollama list",), "`deploykit cache ls`", "the models on the disk; recipes are `deploykit ls`"),
    _O(("ollama ls",), "`deploykit cache ls`", "`deploykit ls` lists recipes"),
    _O(("ollama rm",), "`deploykit cache rm NAME`", "", "MODEL"),
    _O(("ollama cp",), "", "a model has one name; `deploykit cp` copies a recipe"),
    _O(("ollama show",), "`deploykit plan RECIPE`", "`deploykit show` prints a recipe, and `deploykit templates show` "
       "a model's chat template", "MODEL"),
    _O(("ollama ps",), "`deploykit ps`"),
    _O(("ollama stop",), "`deploykit down NAME`", "", "MODEL"),
    _O(("ollama signin", "ollama signout"), "", "there is no account; a hub's token is the variable HF_TOKEN"),
    _T(("text-generation-launcher", "text-generation-server serve"), "`deploykit up RECIPE`", _ANY, "--model-id MODEL"),
    _T(("text-generation-server download-weights",), "`deploykit pull RECIPE`", "", "MODEL"),
    _T(("text-generation-server quantize",), "", _NO_LITE),
    _T(("text-generation-benchmark",), "`deploykit bench RECIPE`"),
    _T(("text-generation-launcher --env",), "`deploykit doctor`"),
)
# fmt: on

_MODEL_FLAGS = ("model", "model_path", "model_id", "from", "gguf")  # what a target is here
_SHOWN = 4  # flags without a key that are named


class Hint(NamedTuple):
    """What was meant by a command that isn't ours: in words, and the same line in our terms where it can be written."""

    text: str
    line: str | None = None


class _Match(NamedTuple):
    row: Row
    name: str
    length: int  # words that agree
    named: bool  # the program's name is one of them
    whole: bool  # not its first words alone
    flags: int  # that are part of the command


def command(args: Sequence[str]) -> Hint | None:
    """What `deploykit ARGS` means to one who comes from another server; None where no server has such a command."""
    found = list(_matches(args))
    if not found:
        return None
    length = max(match.length for match in found)
    rest = list(args[length:])
    scores = [(match.length, match.named, match.flags, _known(match.row.owner, rest)) for match in found]
    best = [match for match, score in zip(found, scores, strict=True) if score == max(scores)]
    words: dict[str, list[_Match]] = {}
    for match in best:
        words.setdefault(match.row.here, []).append(match)
    text = "; ".join(f"{_whose(same)}: {same[0].row.words}" for same in words.values())
    whole = [match.row for match in best if match.whole]
    return Hint(text, _translated(whole[0], rest) if whole and len(words) == 1 else None)


def _whose(matches: Sequence[_Match]) -> str:
    """`vllm serve` is vLLM's; with several: `lmdeploy serve api_server`, `vllm serve` and `ollama serve`."""
    names = list({match.row.owner: f"`{match.name}`" for match in reversed(matches)}.values())[::-1]
    if len(names) == 1:
        return f"{names[0]} is {matches[0].row.owner}'s"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _matches(args: Sequence[str]) -> Iterator[_Match]:
    """The commands that begin `args`, with the program's name or without; one of each server where only a part does."""
    given = [part for arg in args for part in (arg.split(".") if arg.startswith("sglang.") else (arg,))]
    folded = len(given) - len(args)  # `sglang.launch_server` is one argument and two words
    parts: set[str] = set()
    for row in COMMANDS:
        for name in row.names:
            words = name.removeprefix("python -m ").replace("sglang.", "sglang ").split()
            flags = [word for word in words if word.startswith("--")]
            if not set(flags) <= set(args):
                continue
            words = words[: words.index(flags[0])] if flags else words
            for start in (0, 1) if len(words) > 1 else (0,):
                rest = words[start:]
                agreed = sum(
                    1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(given, rest, strict=False))
                )
                length = agreed - (folded if start == 0 else 0)
                if agreed == len(rest):
                    yield _Match(row, name, length, start == 0, True, len(flags))
                elif agreed and not _is_ours(rest[0]) and row.owner not in parts:
                    parts.add(row.owner)
                    yield _Match(row, name, length, start == 0, False, 0)


def _is_ours(word: str) -> bool:
    return word in ("bench", "chat", "convert", "cp", "ls", "ps", "pull", "show")


def _known(owner: str, args: Sequence[str]) -> int:
    """How many of the flags are that server's."""
    return sum(_entry(owner, arg) is not None for arg in args if arg.startswith("--"))


def _entry(owner: str, flag: str) -> Foreign | None:
    from . import TABLES  # the package imports this module

    name = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    return next((e for table in TABLES.values() for e in table if (e.owner, e.name) == (owner, name)), None)


def _translated(row: Row, args: Sequence[str]) -> str | None:
    """The whole line in our terms: the target, and a `--set` for each flag; None where there is no such command."""
    verb = [word for word in row.here.strip("`").split() if not word.isupper()]
    if verb[:1] != ["deploykit"] or not args:
        return None
    target, sets, lost = _arguments(row.owner, args)
    if row.owner == "Ollama" and target is not None:
        target = target.removeprefix("hf.co/").partition(":")[0]
        if "/" not in target:
            return None  # a name of Ollama's own library
    if target is None and not sets:
        return None
    words = [*verb, target or "RECIPE", *(part for item in sets for part in ("--set", item))]
    left = f"  # without {', '.join(lost[:_SHOWN])}{' …' if len(lost) > _SHOWN else ''}" if lost else ""
    return shlex.join(words) + left


def _arguments(owner: str, args: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """(the model, keys with values, flags that have no key here)."""
    target: str | None = None
    sets: list[str] = []
    lost: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            target = target or (word if not word.startswith("-") else None)
            continue
        flag, sign, text = word.partition("=")
        if not sign and rest and not rest[0].startswith("--"):
            text, sign = rest.pop(0), "="
        entry = _entry(owner, flag)
        if entry is not None and entry.name in _MODEL_FLAGS and sign:
            target = text
            continue
        value = _value(entry, text if sign else True)
        if entry is None or entry.here is None or value is None:
            lost.append(flag)
        else:
            sets.append(f"{entry.here}={value}")
    return target, sets, lost


def _value(entry: Foreign | None, given: str | bool) -> str | None:
    """A flag's value as `--set` takes it; None where there is no exact one."""
    if entry is None or entry.convert.apply is None:
        return None
    plain: Any = given
    if isinstance(given, str) and given.lstrip("-").isdigit():
        plain = int(given)
    made = entry.convert.apply(plain)
    if made is None or isinstance(made, list):
        return None if made is None else f"[{', '.join(map(str, made))}]"
    return str(made).lower() if isinstance(made, bool) else str(made)
