"""Trio shell. Does plaintext of an encrypted volume show on the wire or in the store?

What clients wrote names itself, so the needles are known: a few cells out of each write. Whatever a server was sent or keeps is
searched for them, across the seams of the pieces of one stream. Owns no memory; it searches what it is lent.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from servers.stores.base import Store
from transport.messages import FileType, Handle
from trials.cells import CELL, fill
from trials.faults.tamper import content_of
from trials.history import Failure, History
from trials.plaintext import WINDOW, Search

__all__ = ["check_leaks", "needles", "store_streams"]

MOST: Final = 16
EVERYTHING: Final = 1 << 20


def needles(history: History, most: int = MOST) -> list[bytes]:
    """Return pieces of plaintext to look for: out of the middle of up to `most` writes, spread over the history."""
    writes = [op for op in history.of("write", "append") if op.length >= 2 * WINDOW]
    chosen = writes[:: max(1, len(writes) // most)][:most]
    found: list[bytes] = []
    for op in chosen:
        # Records of a log count their cells from 0, wherever they land.
        first = 0 if op.kind == "append" else op.first_cell + 1
        middle = first + (op.length // CELL - WINDOW // CELL) // 2
        found.append(bytes(fill(op.id, middle, WINDOW // CELL)))
    return found


def check_leaks(
    history: History, streams: Iterable[tuple[str, Iterable[bytes | bytearray | memoryview]]], *, most: int = MOST,
    secrets: Sequence[bytes] = (),
) -> Failure | None:  # fmt: skip
    """Search named streams, each given in pieces, for plaintext of up to `most` writes, and for keys."""
    windows = needles(history, most)
    for name, pieces in streams:
        search = Search([*windows, *secrets])
        search.stream(pieces)
        if any(secret not in search.missing for secret in secrets):
            return Failure("U4 key", f"the volume's key is in {name}")
        if search.found:
            number = int.from_bytes(next(window for window in windows if window not in search.missing)[:6], "little")
            return Failure("U4 plaintext", f"plaintext of {history.op(number)} is in {name}")
    return None


def store_streams(store: Store) -> Iterator[tuple[str, Iterable[bytes | memoryview]]]:
    """Yield everything in a store by name: data and tags of files, records and names."""
    todo = [("", store.root().handle)]
    while todo:
        path, folder = todo.pop()
        entries, _ = store.readdir(folder, 0, EVERYTHING)
        for entry in entries:
            name = f"{path}/{entry.name}"
            yield f"the record of {name}", [entry.name.encode("utf-8", "surrogateescape"), entry.record or b""]
            if entry.attr.type is FileType.DIRECTORY:
                todo.append((name, entry.handle))
            elif entry.attr.type is FileType.FILE:
                yield name, _pieces(store, entry.handle, aux=False)
                yield f"the tags of {name}", _pieces(store, entry.handle, aux=True)


def _pieces(store: Store, handle: Handle, *, aux: bool) -> Iterator[bytes]:
    pos = 0
    while True:
        lent = store.read_source(handle, pos, EVERYTHING, aux=aux)
        eof, length = lent.eof, lent.length
        yield content_of(lent)
        pos += length
        if eof or not length:
            return
