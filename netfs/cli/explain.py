"""Trio shell. `netfs explain`: what each way of handing memory to an RDMA device costs, carried out on an emulated machine.

Owns no memory; `transport.generations` does the work and owns the emulated memory meanwhile.
"""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from netfs.cli.explain_text import picture
from netfs.cli.host import Exit, Host, failing

__all__ = ["register", "size_of"]

UNITS = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "kb": 1000,
    "m": 1 << 20,
    "mib": 1 << 20,
    "mb": 1000**2,
}
COLUMNS = ("page_lists", "iterators", "scatterlists", "sges", "map_calls", "messages", "payload_copies", "allocations")


def size_of(text: str) -> int:
    """Return the bytes that "4096", "64KiB" or "1 MiB" name. Raises: ValueError for other text."""
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is no size; write 4096, 64KiB or 1MiB")
    return int(match[1]) * unit


def register(host: Host) -> None:
    """Add the command."""

    def explain(
        *,
        size: str = "1MiB",
        layout: Literal["fragmented", "contiguous"] = "fragmented",
        device: Literal["swiotlb", "iommu", "direct"] = "iommu",
        max_sge: int = 16,
        svg: Path | None = None,
    ) -> None:
        """Count what each way of handing memory to an RDMA device allocates, maps, copies and posts.

        Args:
            size: bytes of payload, such as 4096, 64KiB or 1MiB.
            layout: pages scattered over physical memory, or in a row.
            device: how the device reaches memory: through a bounce buffer, an IOMMU, or by physical address.
            max_sge: entries of one message, its header's included; with 1 the payload is copied behind the header.
            svg: file to draw the picture into, as SVG.
        """
        from transport.generations import compare  # noqa: PLC0415

        try:
            length = size_of(size)
            found = compare(length, layout, device, max_sge)
        except ValueError as error:
            host.fail(Exit.USAGE, str(error))
        given = {"size": length, "layout": layout, "device": device, "max_sge": max_sge}
        rows = [asdict(generation.costs) for generation in found.generations]
        title = f"{length} bytes, {layout}, {device} device, {max_sge} SGE{'s' * (max_sge > 1)} a message"
        if svg is not None:
            from netfs.cli.explain_svg import draw  # noqa: PLC0415

            with failing(Exit.LOCAL):
                svg.write_text(draw(found, title), encoding="utf-8")
        if host.json:
            host.emit({"input": given, "generations": rows})
            return
        table(host, rows, title)
        host.emit(None, picture(found) if svg is None else f"The picture is in {svg}.")

    host.command(
        explain,
        name="explain",
        examples=[
            "netfs explain",
            "netfs explain --size 64KiB --svg explain.svg",
            "netfs explain --size 64KiB --layout contiguous --device swiotlb --max-sge 4",
        ],
    )


def table(host: Host, rows: list[dict[str, int]], title: str) -> None:
    """Print a row for each cost and a column for each generation, which fits the narrowest terminal."""
    from rich.table import Table  # noqa: PLC0415

    shown = Table(title=title, title_justify="left")
    shown.add_column("")
    for row in rows:
        shown.add_column(str(row["name"]), justify="right")
    for column in COLUMNS:
        shown.add_row(column.replace("_", " "), *(f"{row[column]:,}" for row in rows))
    host.console().print(shown)
