"""Trio shell. `netfs faults list`: the catalogue of what can go wrong in a trial. Owns no memory."""

from typing import TYPE_CHECKING

from netfs.cli.host import Host

if TYPE_CHECKING:
    from trials.faults.rows import Row

__all__ = ["register_faults"]


def register_faults(host: Host) -> None:
    """Add the command."""
    group = host.group(
        "faults",
        "What can go wrong in a trial, when, and what may come of it.",
        ["netfs faults list", "netfs faults list --layer rdma", "netfs faults list --json"],
    )

    def list(*, layer: str | None = None) -> int:  # noqa: A001 (the command is named so)
        """List the faults: id, name, trigger, allowed outcomes, and how each comes about.

        Args:
            layer: only these, by the layer's name or its letter: memory, netfs, encryption, transport, rdma, storage, malicious,
                environment.
        """
        from trials.faults.catalogue import LAYERS, ROWS  # noqa: PLC0415 - loaded by who asks

        wanted = None if layer is None else layer.lower()
        if wanted is not None and wanted not in {*LAYERS.values(), *map(str.lower, LAYERS)}:
            raise ValueError(f"no layer {layer}; there are {', '.join(LAYERS.values())}")
        rows = [row for row in ROWS.values() if wanted in {None, row.layer, row.id[0].lower()}]
        keys = ("id", "layer", "name", "trigger", "allowed", "how")
        told = [{key: getattr(row, key) for key in keys} for row in rows]
        host.emit(told, "\n".join(_lines(rows)))
        return 0

    host.command(list, name="list", under=group, examples=["netfs faults list --layer storage"])


def _lines(rows: "list[Row]") -> "list[str]":
    """Return the table for people."""
    lines: list[str] = []
    layer = ""
    for row in rows:
        if row.layer != layer:
            layer = row.layer
            lines += ["", layer] if lines else [layer]
        lines.append(f"  {row.id:<4} {row.name:<44} {row.trigger:<48} {' '.join(row.allowed)}")
    there = sum(row.exists for row in rows)
    return [*lines, "", f"{len(rows)} faults, {there} of which can be injected"]
