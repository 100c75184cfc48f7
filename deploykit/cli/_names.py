"""Deployments by the names that a person gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.supervise.state import DeploymentState


def find(name: str) -> DeploymentState:
    """The record of `name`. ConfigError that lists the names there are when it isn't one of them."""
    from deploykit.supervise.state import read, read_all

    state = read(name)
    if state is None:
        names = [s.name for s in read_all()]
        raise ConfigError(
            f"there is no deployment {name!r}",
            why=f"there are: {', '.join(names)}" if names else "there is none at all",
            fix="`deploykit ps --all` lists them",
        )
    return state
