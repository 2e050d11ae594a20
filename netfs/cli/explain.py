"""Trio shell. `netfs explain`: what each way of handing memory to an RDMA device costs, carried out on an emulated machine.

Owns no memory; `transport.generations` does the work and owns the emulated memory meanwhile.
"""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from netfs.cli.host import Exit, Host, failing

if TYPE_CHECKING:
    from transport.generations import Comparison

__all__ = ["picture", "register", "size_of"]

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
PAGE = 4096
RULER = 64
MAP_ROWS = 8
COLUMNS = ("page_lists", "iterators", "scatterlists", "sges", "map_calls", "messages", "payload_copies", "allocations")
SAYS = {
    "legacy_send": "page list, an iterator a page, a scatterlist a send",
    "direct_send": "fragments straight from the iterator",
    "legacy_mr": "page list, scatterlist, one registration",
    "bvec_iova": "one device range over all fragments",
}


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


def picture(found: "Comparison") -> str:
    """Return where the payload lies in physical memory, and how its first bytes were cut, in plain text."""
    fragments = found.fragments
    base = min(vec.paddr for vec in fragments) // PAGE * PAGE
    last = max(vec.paddr + vec.length for vec in fragments)
    end = min(last, base + MAP_ROWS * RULER * PAGE)
    marks = ["·"] * (-(-(end - base) // PAGE))
    for vec in fragments:
        for page in range((vec.paddr - base) // PAGE, -(-(vec.paddr + vec.length - base) // PAGE)):
            if page < len(marks):
                marks[page] = "█"
    lines = [f"Payload in physical memory, {len(fragments)} fragment{'s' * (len(fragments) > 1)}; a mark is a page:"]
    lines += [f"  {base + row * PAGE:#012x} {''.join(marks[row : row + RULER])}" for row in range(0, len(marks), RULER)]
    if end < last:
        lines.append(f"  and so on, to {last:#x}")
    total = sum(vec.length for vec in fragments)
    shown = min(total, 4 * PAGE)
    lines += ["", f"The first {shown} bytes, cut where a new piece begins:"]
    lines.append(f"  {'in memory':<12}{ruler([vec.length for vec in fragments], shown)}")
    notes = []
    for generation in found.generations:
        name = generation.costs.name
        one = generation.costs.sges == 1
        pieces = [total] if one else [vec.length for vec in generation.sges]
        lines.append(f"  {name:<12}{ruler(pieces, shown)}")
        notes.append(f"  {name:<12}{generation.costs.sges:>7,} SGE{'s' if not one else ' '}  {SAYS[name]}")
    lines += ["", *notes]
    return "\n".join(lines)


def ruler(lengths: list[int], shown: int) -> str:
    """Draw `shown` bytes on RULER columns with a cut where each piece begins."""
    marks = ["─"] * RULER
    at = 0
    for length in lengths:
        if at >= shown:
            break
        marks[at * RULER // shown] = "├"
        at += length
    return "".join(marks) + ("┤" if at <= shown else "┄")
