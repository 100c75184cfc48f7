"""The C++ tests, under the address and undefined behaviour sanitizers."""

from __future__ import annotations

from pathlib import Path

import cpp_tests
import pytest
from cpp_tests import Outcome

pytestmark = pytest.mark.timeout(1800)  # compiling comes first, on whatever machine this is


@pytest.fixture(scope="module")
def compiled() -> Path:
    return cpp_tests.compile_tests()


@pytest.fixture(scope="module")
def outcomes(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return cpp_tests.run_tests(compiled, tmp_path_factory.mktemp("ctest") / "report.xml")


@pytest.mark.parametrize("name", cpp_tests.written())
def test_cpp(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].passed, outcomes[name].output


def test_ctest_knows_every_test_that_is_written(compiled: Path) -> None:
    assert cpp_tests.registered(compiled) == set(cpp_tests.written())
