"""The commands and programs that the README and the pages of docs/ show are run, in one deployment of the real model.

Fences marked `sh` and `python` are run; `bash` (installing, the test line) and `console` (what is printed) are not.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEFAULT_PORT = "23333"


def examples() -> Iterator[tuple[str, str, str]]:
    for page in PAGES:
        for i, match in enumerate(FENCE.finditer(page.read_text())):
            yield f"{page.relative_to(ROOT)}-{i}", match[1], match[2]


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The default deployment, on a free port in place of the default one."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DEPLOYKIT_STATE": str(tmp_path_factory.mktemp("docs-state")),
        "DEPLOYKIT_DOCS_PORT": port,
    }
    up = ["deploykit", "up", "recipes/smollm2-135m.yaml", "-d", "--port", port]
    done = subprocess.run(up, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    yield env
    subprocess.run(["deploykit", "down", "--all"], cwd=ROOT, env=env, check=True, timeout=60)


def test_there_are_examples() -> None:
    assert {name.split("-")[0] for name, _, _ in EXAMPLES} >= {
        "README.md",
        "docs/server.md",
        "docs/chat.md",
        "docs/python.md",
    }


@pytest.mark.parametrize(("language", "code"), [e[1:] for e in EXAMPLES], ids=[e[0] for e in EXAMPLES])
def test_example(language: str, code: str, environment: dict[str, str]) -> None:
    code = code.replace(DEFAULT_PORT, environment["DEPLOYKIT_DOCS_PORT"])
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr
