"""The house's rules, held over every file of the package: who may import whom, what stays light, what is never done.

The table is the one of docs/architecture.md, "Rooms".
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "deploykit"

EVERYTHING = ("",)
EVERY_ROOM_MAY = ("errors", "fsutil")

# room -> what it may import of deploykit, itself and EVERY_ROOM_MAY aside (a name allows everything below it)
TABLE: dict[str, tuple[str, ...]] = {
    "__init__": ("pipe", "prompt", "recipe.foreign"),  # the lazy exports; what another server's name is here
    "__main__": ("cli",),
    "errors": (),
    "fsutil": (),
    "cli": EVERYTHING,
    "recipe": (),
    "hub": (),
    "checkpoint": ("hub",),
    "hardware": (),
    "shipped": ("recipe",),
    "build": ("hardware",),
    # types only; and the engines' memory modules: each runner states its own costs and limits, torch-free
    "plan": (
        "recipe.schema",
        "checkpoint.facts",
        "hardware.machine",
        "engine.pytorch.memory",
        "engine.native.memory",
        "engine.native.cuda",
        "engine.native.head",
    ),
    "prompt": (),
    "vision": (),
    "quantize": ("checkpoint", "hub", "prompt", "engine.pytorch"),
    # supervise.child: what a supervised process owes its supervisor (status lines); standard library alone
    # build: the native runner imports the library from where it was built
    "engine": ("checkpoint", "plan", "build", "supervise.child"),
    "server": (
        "prompt",
        "vision",
        "engine.types",
        "engine.protocol",
        "engine.transport",
        "supervise.child",
    ),
    # prompt.templates: which chat template a model is served with is decided where its files are known
    "deployment": (
        "recipe",
        "hub",
        "checkpoint",
        "hardware",
        "plan",
        "build",
        "server.spec",
        "prompt.templates",
        "shipped",  # a target may be the name of a shipped recipe
    ),
    "supervise": (
        "deployment",
        "recipe",  # the loaded recipe that a start is made from
        "plan",
        "engine.types",
        "engine.protocol",
        "engine.transport",
        "server.spec",
    ),
    # server: what stands between a request and the engine's client; supervise: the engine process's watcher
    "pipe": ("engine", "prompt", "vision", "server", "deployment", "recipe", "plan", "supervise"),
    "chat": ("server", "supervise", "deployment", "recipe", "hardware", "plan", "shipped"),
    # engine: the loop's own overhead and the engine alone; chat: its stream parser and how it finds an endpoint;
    # checkpoint: the same weights for the peer
    "bench": (
        "server",
        "supervise",
        "deployment",
        "recipe",
        "hardware",
        "plan",
        "engine",
        "chat",
        "checkpoint",
    ),
    # hub and checkpoint: to plan every recipe from what is on the disk
    "doctor": (
        "server",
        "supervise",
        "deployment",
        "recipe",
        "hub",
        "checkpoint",
        "hardware",
        "plan",
        "build",
        "shipped",
    ),
}

# Files that may import torch or transformers; each names where the import is needed.
HEAVY = ("torch", "transformers", "safetensors.torch")
MAY_BE_HEAVY = (
    "engine/pytorch/",  # the runner
    "checkpoint/weights",  # tensors are torch tensors from here on
    "checkpoint/unpickle",  # reads pickled tensors, in a confined process of its own
    "bench/peer_generate.py",  # the peer that is measured, in a process of its own
    "bench/card_probe.py",  # measures the card, in a process of its own
    "doctor/_torch_archs.py",  # asks torch what it has kernels for, in a process of its own
)
NEVER_HEAVY = ("engine/pytorch/memory.py", "engine/pytorch/__init__.py")  # the planner reads them

# Forbidden everywhere: module -> why
UNSAFE_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
UNSAFE_CALLS = {
    "eval",
    "exec",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "tempfile.mktemp",
    "jinja2.Environment",
    "jinja2.Template",
}
# The one call of torch.load: tensors alone, in a process that can't do anything else.
MAY_CALL = {("checkpoint/unpickle.py", "torch.load")}
UNSAFE_KEYWORDS = {"shell": True, "trust_remote_code": True, "allow_pickle": True, "weights_only": False}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import, at any depth; `from a import b` gives `a.b`."""
    package = ["deploykit", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module or ""]).strip(".")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module") and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield node.lineno, target.value


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def below(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("path", files(), ids=relative)
def test_each_room_imports_only_what_the_table_allows(path: Path) -> None:
    room = room_of(path)
    assert room in TABLE, f"{room} is not in the table of docs/architecture.md"
    allowed = (*TABLE[room], *EVERY_ROOM_MAY, room)
    wrong = []
    for line, name in imports(path):
        if not below(name, "deploykit"):
            continue
        inner = name.removeprefix("deploykit").lstrip(".")
        if inner in ("", "__version__") or any(below(inner, prefix) for prefix in allowed):
            continue
        wrong.append(f"{relative(path)}:{line}: {room} may not import {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", files(), ids=relative)
def test_torch_and_transformers_stay_in_their_rooms(path: Path) -> None:
    place = relative(path)
    if place.startswith(MAY_BE_HEAVY) and place not in NEVER_HEAVY:
        return
    wrong = [
        f"{place}:{line}: {name} may not be imported here"
        for line, name in imports(path)
        if any(below(name, heavy) for heavy in HEAVY)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", files(), ids=relative)
def test_nothing_unsafe_is_imported_or_called(path: Path) -> None:
    wrong = []
    for line, name in imports(path):
        if name.split(".")[0] in UNSAFE_MODULES or name in UNSAFE_CALLS:
            wrong.append(f"{relative(path)}:{line}: imports {name}")
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        if (relative(path), dotted(node.func)) in MAY_CALL and any(
            k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True
            for k in node.keywords
        ):
            continue
        if dotted(node.func) in UNSAFE_CALLS:
            wrong.append(f"{relative(path)}:{node.lineno}: calls {dotted(node.func)}")
        for keyword in node.keywords:
            if keyword.arg not in UNSAFE_KEYWORDS:
                continue
            # Only a literal of the safe kind is safe: a variable could hold anything.
            bad = UNSAFE_KEYWORDS[keyword.arg]
            if not (isinstance(keyword.value, ast.Constant) and keyword.value.value == (not bad)):
                wrong.append(f"{relative(path)}:{node.lineno}: {keyword.arg}={ast.unparse(keyword.value)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "module",
    [
        "recipe",
        "hub",
        "hardware",
        "build",
        "plan",
        "prompt",
        "deployment",
        "server",
        "supervise",
        "chat",
        "doctor",
        "bench",
        "pipe.make",
        "cli.app",
        "cli.plan",
        "cli.doctor",
        "engine.types",
        "engine.protocol",
        "engine.pytorch.memory",
        "engine.native.memory",
        "engine.native.cuda",
        "engine.native.head",
        "engine.native.runner",
        "checkpoint.facts",
    ],
)
def test_light_rooms_stay_light_when_they_are_really_imported(module: str) -> None:
    code = f"import deploykit.{module}, sys; print(*({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_the_rules_would_catch_what_they_forbid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "deploykit" / "hub" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text(
        "from ..engine import core\nimport pickle, torch\nimport subprocess\n"
        "def f(x):\n    return eval(x), subprocess.run(x, shell=x)\n"
    )
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "deploykit")
    with pytest.raises(AssertionError, match=r"bad\.py:1: hub may not import deploykit\.engine\.core"):
        test_each_room_imports_only_what_the_table_allows(bad)
    with pytest.raises(AssertionError, match=r"bad\.py:2: torch"):
        test_torch_and_transformers_stay_in_their_rooms(bad)
    with pytest.raises(AssertionError) as caught:
        test_nothing_unsafe_is_imported_or_called(bad)
    assert [part in str(caught.value) for part in ("imports pickle", "calls eval", "shell=x")] == [True] * 3
