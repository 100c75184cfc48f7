"""ModelScope's own package is asked, in a process of its own that never loads torch; this one stays light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hub_fakes import COMMIT, MS_TOKEN, FakeHub

from deploykit.errors import DeploykitError
from deploykit.hub import ModelScopeRef, fetch, modelscope
from deploykit.hub.modelscope_sdk import Request, Told

RUN = modelscope._run  # as it is, before other tests' fixtures


@pytest.fixture(autouse=True)
def _in_a_process_of_its_own(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelscope, "_run", RUN)


def test_the_package_is_asked_without_torch(hub: FakeHub) -> None:
    request = msgspec.json.encode(Request("owner/name", "master"))
    command = [sys.executable, "-X", "importtime", "-m", "deploykit.hub.modelscope_sdk"]
    done = subprocess.run(command, input=request, capture_output=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines() if "|" in line}
    assert "modelscope.hub.api" in loaded
    assert not [name for name in loaded if name.split(".")[0] in ("torch", "transformers", "tensorflow")]
    told = msgspec.json.decode(done.stdout, type=Told)
    assert told.endpoint == hub.endpoint
    assert told.resolved is not None
    assert told.resolved.revision == COMMIT
    assert MS_TOKEN.encode() not in done.stdout + done.stderr


def test_a_model_is_fetched_through_it(hub: FakeHub, cache: Path) -> None:
    found = fetch([ModelScopeRef("owner/name")], cache=cache)
    assert found.revision == COMMIT
    assert (found.path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_whoever_fetches_stays_light(hub: FakeHub, cache: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom deploykit.hub import ModelScopeRef, fetch\n"
        "fetch([ModelScopeRef('owner/name')], cache=Path(sys.argv[1]))\n"
        "print(*sorted({'torch', 'modelscope', 'modelscope_hub', 'requests', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(cache)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_a_package_that_fails_is_told(
    hub: FakeHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "path" / "modelscope"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("print('noise')\nraise ImportError('its insides have changed')\n")
    monkeypatch.setenv("PYTHONPATH", f"{broken.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(DeploykitError, match="ModelScope's SDK failed") as e:
        fetch([ModelScopeRef("owner/name")], cache=cache)
    assert "its insides have changed" in str(e.value.why)
    assert "pip install -U modelscope" in str(e.value.fix)


def test_a_process_that_hangs_is_ended(
    hub: FakeHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "path" / "modelscope"
    stuck.mkdir(parents=True)
    pid = tmp_path / "pid"
    (stuck / "__init__.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(stuck.parent))
    monkeypatch.setattr(modelscope, "_ASK_S", 3.0)
    with pytest.raises(DeploykitError, match="couldn't be reached"):
        fetch([ModelScopeRef("owner/name")], cache=cache)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
