"""The switches that tests start deployments with, refused everywhere else."""

from __future__ import annotations

import os

from deploykit.errors import ConfigError


def check_test_switches() -> str | None:
    """The runner that the tests ask for; the switches are refused outside of tests."""
    if os.environ.get("DEPLOYKIT_TESTING") != "1":
        for name in ("DEPLOYKIT_RUNNER", "DEPLOYKIT_FAULT"):
            if os.environ.get(name):
                raise ConfigError(
                    f"{name} is set, and it is for tests only",
                    fix=f"unset {name}, or set DEPLOYKIT_TESTING=1 if this is a test",
                )
        return None
    runner = os.environ.get("DEPLOYKIT_RUNNER") or None
    if runner not in (None, "fake"):
        raise ConfigError(f"DEPLOYKIT_RUNNER={runner} names no runner of the tests", fix="use fake")
    return runner
