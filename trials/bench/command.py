"""Trio shell. `netfs bench`: run figures, print each with its limit, ratio and target.

A room adds figures by a module of this package with a tuple FIGURES. Owns no memory.
"""

import os
import platform
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Final

import trio

from netfs.cli.host import Exit, Host
from trials.bench import (
    buffered,
    checkers,
    crypto,
    files,
    freshness,
    fsspec,
    iov,
    memory,
    mount,
    rdma,
    rdma_stream,
    sealing,
    sessions,
    simulated,
    starting,
    tls,
    tracing,
    verbs,
    wire,
)
from trials.bench.figure import Figure, Result, measure

__all__ = ["figures", "run_bench"]

ROOMS: Final = (
    wire, files, buffered, tls, rdma, rdma_stream, sessions, verbs, memory, iov, crypto, sealing, freshness, fsspec, mount,
    tracing, checkers, simulated, starting,
)  # fmt: skip


def figures() -> list[Figure]:
    """Return all figures, room by room."""
    return [figure for room in ROOMS for figure in room.FIGURES]


async def run_bench(host: Host, names: Sequence[str], *, list_only: bool) -> None:
    """Run the figures whose names match (`tcp.*` is a pattern), all of them by default, and print them."""
    every = figures()
    chosen = [figure for figure in every if not names or any(fnmatch(figure.name, name) for name in names)]
    if not chosen:
        host.fail(Exit.USAGE, f"no figure is named {' or '.join(names)}; --list names all")
    if list_only:
        rows = [{"name": f.name, "unit": f.unit, "limit": f.limit, "target": f.target} for f in chosen]
        host.emit({"figures": rows}, "\n".join(_listed(figure) for figure in chosen))
        return
    results: list[Result] = []
    host.say(_HEADER)
    for figure in chosen:
        result = await measure(figure)
        results.append(result)
        host.say(_line(result))
        await trio.lowlevel.checkpoint()
    host.emit({"machine": _machine(), "figures": [result.as_row() for result in results]}, "")


_HEADER: Final = f"{'figure':32} {'value':>12} {'limit':>12}  {'ratio':>6}  target"


def _listed(figure: Figure) -> str:
    return f"{figure.name:32} {'≤' if figure.lower else '≥'} {figure.target:g} of {figure.limit}  ({figure.unit})"


def _line(result: Result) -> str:
    figure = result.figure
    mark = "" if result.met else "  missed"
    return (
        f"{figure.name:32} {_number(result.value):>12} {_number(result.limit_value):>12}  {_number(result.ratio):>6}  "
        f"{'≤' if figure.lower else '≥'} {figure.target:g} of {figure.limit}, {figure.unit}{mark}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _machine() -> dict[str, object]:
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
