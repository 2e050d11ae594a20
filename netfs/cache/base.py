"""Sans-IO. The contract between the request library and a local cache: a `Cookie` is what the cache has of one file.

The library asks a cookie where data is (`next_extent`), reads it (`read`) and gives it what was downloaded or written (`write`).
Positions are those of the file as it is stored: plain bytes of a plain file, ciphertext of an encrypted one, so that a cache
never sees what the server does not. Everything here returns at once; `done` follows exactly once, from the Trio thread, perhaps
before the call returns, and from then on the memory is the caller's again.

    read   subrequest of source READ  ──▶ cookie.read  ──▶ done(n, error)    an error or a short read is downloaded instead
    write  stream 1 of a write request ─▶ cookie.write ──▶ done(n, error)    an error stops the caching, never the request

Who keeps what true. The library writes only what the server has or is being sent in the same request. It calls `forget` for
what it changes, before and, where the data goes past the page cache, after; and `invalidate` when the server did not take what
the cache was given, or when another client has changed the file. The cookie forgets results of reads and writes that an
invalidation overtook: a read then ends with ESTALE, a write is dropped in silence. A cookie that has failed, was culled or is
still looked up is not `usable`, and may become so at any time in either direction; its methods may still be called. After
`netfs_cache_ops` and the cookie API of fscache. Owns no memory.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from iov.iov_iter import IovIter
from transport.base import Abandonable

__all__ = ["BlockCookie", "CacheDone", "Cookie", "Extent", "ExtentKind"]

CacheDone = Callable[[int, Exception | None], None]
"""Told how an operation ended: bytes moved, a prefix, and why not all."""


class ExtentKind(enum.Enum):
    """What is known of a range."""

    DATA = "data"
    ZERO = "zero"


@dataclass(frozen=True, slots=True)
class Extent:
    """A range the cache knows: [start, end) of the stored file. DATA can be read from it; ZERO is a known hole."""

    start: int
    end: int
    kind: ExtentKind = ExtentKind.DATA


class Cookie(ABC):
    """The cache's side of one file.

    granularity: bytes; what is written begins on a multiple of it and ends on one or at the end of the stored file, so that no
    granule is kept in part. It is a multiple of the file's block size. inval_counter: grows with each invalidation; who began
    before it moved must not put what it brought into the cache.
    """

    granularity: int
    inval_counter: int

    @property
    @abstractmethod
    def usable(self) -> bool:
        """Reading and writing make sense now."""

    @abstractmethod
    def next_extent(self, start: int, end: int) -> Extent | None:
        """Return the first extent that overlaps [start, end), clipped to it; None when nothing of it is known. No waiting."""

    @abstractmethod
    def read(self, pos: int, dest: IovIter, done: CacheDone) -> Abandonable | None:
        """Read `dest.count` bytes at `pos` into `dest`, lent until `done`; the cursor is not moved.

        Returns: what to abandon, None when `done` was called already. Short only with an error or at the cached file's end.
        """

    @abstractmethod
    def forget(self, start: int, end: int) -> None:
        """Bytes of [start, end) are being changed: the granules they are in are not right any more, from now on."""

    @abstractmethod
    def prepare_write(self, start: int, end: int) -> tuple[int, int] | None:
        """Say which part of [start, end), whole granules of it, can be taken; None when nothing can (no room, not usable)."""

    @abstractmethod
    def write(self, pos: int, source: IovIter, done: CacheDone) -> Abandonable | None:
        """Keep `source`, lent until `done`, as the file's bytes at `pos`; the cursor is not moved.

        The range is one `prepare_write` allowed. The bytes are an extent from `done` on, unless the cookie was invalidated.
        """

    @abstractmethod
    def invalidate(self, why: str) -> None:
        """Forget all that is cached of the file, at once: what is in flight is no longer believed either."""

    @abstractmethod
    def resize(self, size: int) -> None:
        """The stored file was cut or extended to `size` bytes: what is behind it is forgotten, what is new is a hole."""


class BlockCookie(Cookie):
    """A cookie that can hold an encrypted file: its granules are blocks, as the server has them, each with its tag entry."""

    @abstractmethod
    def read_blocks(self, first: int, entries: bytes | bytearray, dest: IovIter, done: CacheDone) -> Abandonable | None:
        """Read the blocks from `first` on into `dest`, as long as they are those of the verified `entries`.

        Apart from that as `read`. What comes is to be opened like any ciphertext: the entry says which block it should be.
        """

    @abstractmethod
    def write_blocks(self, first: int, entries: bytes | bytearray, source: IovIter, done: CacheDone) -> Abandonable | None:
        """Keep the blocks in `source`, from `first` on, with their entries; as `write`, but nothing needs to be prepared."""
