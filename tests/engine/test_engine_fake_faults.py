"""The language of DEPLOYKIT_FAULT."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deploykit.engine import faults
from deploykit.engine.faults import Fault, Faults, ScriptedFault, parse_faults
from deploykit.errors import ConfigError


def test_a_list_of_faults() -> None:
    text = (
        "engine.step:raise@17, engine.step:delay=0.05,engine.row:fail@12,engine.load:delay=2,engine.load:exit"
    )
    found = parse_faults(text)
    assert found == (
        Fault("engine.step", "raise", number=17),
        Fault("engine.step", "delay", 0.05),
        Fault("engine.row", "fail", number=12),
        Fault("engine.load", "delay", 2.0),
        Fault("engine.load", "exit"),
    )
    assert ",".join(map(str, found)) == text.replace(", ", ",")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("engine.step", "not of the form"),
        ("", "not of the form"),
        ("engine.step:raise@17,,", "not of the form"),
        ("engine.stp:raise@17", "no site 'engine.stp'"),
        ("engine.step:explode", "no action 'explode'"),
        ("engine.row:raise", "no action 'raise'"),
        ("engine.step:delay", "a delay has a value"),
        ("engine.step:raise=3", "a delay has a value"),
        ("engine.step:delay=soon", "no number of seconds"),
        ("engine.step:delay=-1", "no number of seconds"),
        ("engine.step:delay=nan", "no number of seconds"),
        ("engine.step:delay=inf", "no number of seconds"),
        ("engine.step:raise@0", "no step number"),
        ("engine.step:raise@x", "no step number"),
        ("engine.step:raise@", "no step number"),
        ("engine.load:raise@2", "happens once"),
    ],
)
def test_errors_name_the_item_and_the_fix(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_faults(text)
    assert why in (caught.value.why or "")
    assert caught.value.fix
    assert caught.value.exit_code == 2


def test_the_environment_needs_the_testing_switch() -> None:
    assert Faults.from_environment({}).faults == ()
    assert Faults.from_environment({"DEPLOYKIT_TESTING": "1"}).faults == ()
    both = {"DEPLOYKIT_TESTING": "1", "DEPLOYKIT_FAULT": "engine.step:hang@2"}
    assert Faults.from_environment(both).faults == (Fault("engine.step", "hang", number=2),)
    with pytest.raises(ConfigError, match="for tests"):
        Faults.from_environment({"DEPLOYKIT_FAULT": "engine.step:hang@2"})


def test_when_faults_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Faults(
        parse_faults("engine.step:raise@3,engine.step:delay=0.5,engine.step:delay=0.25@2,engine.row:fail@4")
    )
    assert [script.delay("engine.step", n) for n in (1, 2, 3)] == [0.5, 0.75, 0.5]
    script.fire("engine.step", 2)
    with pytest.raises(ScriptedFault, match=r"engine\.step:raise@3"):
        script.fire("engine.step", 3)
    assert [script.row_fails(n) for n in (3, 4, 5)] == [False, True, False]
    script.fire("engine.load")

    class Asleep(Exception):
        pass

    def sleep(seconds: float) -> None:
        raise Asleep

    monkeypatch.setattr(faults.time, "sleep", sleep)
    with pytest.raises(Asleep):
        Faults(parse_faults("engine.step:hang")).fire("engine.step", 9)


def test_exit_ends_the_process_at_once() -> None:
    code = (
        "from deploykit.engine.faults import Faults, parse_faults\n"
        "try: Faults(parse_faults('engine.step:exit@2')).fire('engine.step', 2)\n"
        "finally: print('never seen', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == faults.EXIT_CODE
    assert done.stdout == b""
