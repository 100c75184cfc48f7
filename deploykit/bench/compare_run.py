"""`deploykit bench --vs` and `--perplexity`: from what was asked for to results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from deploykit.bench import figures, peers, perplexity, versus
from deploykit.bench.perplexity import Variant
from deploykit.bench.versus_report import Perplexity, Versus
from deploykit.deployment.prepare import Prepared, prepare
from deploykit.deployment.stage import Report
from deploykit.errors import ConfigError
from deploykit.fsutil import cache_dir

QUICK_ROUNDS, QUICK_TRIES = 2, 1
# Weights dequantized and everything computed in float32 by the engine that others are checked against.
REFERENCE = {
    "f32": (
        "model.dtype=float32",
        "engine.backend=pytorch",
        "engine.cache.quant_policy=none",
        "engine.lm_head_dtype=auto",
    )
}


def installed(vs: Sequence[str], peer_python: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The command line of each peer. Raises ConfigError for a name or an interpreter that there isn't."""
    if unknown := sorted(set(vs) - set(peers.KINDS)):
        raise ConfigError(f"there is no peer {unknown[0]!r}", fix=f"--vs {' or --vs '.join(peers.KINDS)}")
    given = peers.interpreters(peer_python)
    if unused := sorted(set(given) - set(vs)):
        raise ConfigError(f"--peer-python {unused[0]} goes with --vs {unused[0]}")
    return {name: peers.command_of(peers.KINDS[name], given) for name in dict.fromkeys(vs)}


def run_versus(
    prepared: Prepared,
    target: str,
    sets: Sequence[str],
    profiles: Sequence[str],
    commands: dict[str, tuple[str, ...]],
    *,
    only: Sequence[str],
    rounds: int,
    quick: bool,
    stages: Report,
    say: Callable[[str], None],
) -> Versus:
    """Every peer of `commands` beside the engine that `up` would run."""
    jobs = figures.chosen_jobs(only)
    found = []
    for name, argv in commands.items():
        say(f"preparing {name}")
        found.append(peers.prepare(peers.KINDS[name], argv, prepared.facts, cache_dir()))
    options = versus.Options(
        target=target, sets=tuple(sets), profiles=tuple(profiles), stages=stages, rounds=rounds
    )
    if quick:
        options = replace(options, rounds=QUICK_ROUNDS, tries=QUICK_TRIES)
    return versus.compare(prepared.plan, prepared.facts, found, jobs, options, say)


def run_perplexity(
    prepared: Prepared,
    target: str,
    sets: Sequence[str],
    profiles: Sequence[str],
    source: tuple[str, str],
    *,
    reference: str | None,
    kv: Sequence[str],
    stages: Report,
    say: Callable[[str], None],
) -> Perplexity:
    """The plan of `up` (or one for each KV type), after the reference where one is asked for."""
    variants = []
    if reference is not None:
        made = prepare(target, sets=(*sets, *REFERENCE[reference]), profiles=profiles, report=stages)
        variants.append(Variant("reference", made.plan, reference=True))
    if not kv:
        variants.append(Variant("this plan", prepared.plan))
    for kind in kv:
        quant = f"engine.cache.quant_policy={kind}"
        made = prepare(target, sets=(*sets, quant), profiles=profiles, report=stages)
        variants.append(Variant(f"KV {kind}", made.plan))
    ids = perplexity.tokenize(prepared.facts, source[1], cache_dir())
    return perplexity.measure(variants, ids, source, say)
