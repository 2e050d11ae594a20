"""Trio shell. What may go wrong in storage: errors, short counts, and bytes that are lost, rotten, torn or in the wrong place.

A layer around a store. Below it everything is as it was written: what reads see wrong is an overlay, which is lifted when all
heals or when the place is written over. Events are the methods: `read`, `write`, `commit`, `apply`, `create`, `rename`, …
Ownership: as `servers.stores.base`; where a read was changed, what is lent is a copy.
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from iov.iov_iter import Direction, IovIter
from servers.stores.base import Lent, Store
from transport.base import Landing
from transport.messages import Handle
from trials.faults.injector import Armed, Injector
from trials.faults.tamper import content_of

__all__ = ["FaultyStore"]

NAMED: Final = frozenset({
    "lookup", "getattr", "setattr", "create", "open", "truncate", "mkdir", "unlink", "rmdir", "rename", "link", "symlink",
    "allocate", "punch", "seek", "copy_range", "xattr_set", "xattr_get", "apply", "commit", "readdir", "record_get", "blob_get",
    "put_intent",
})  # fmt: skip
LOST: Final = frozenset({"S14", "X5"})


@dataclass(slots=True)
class _Spot:
    """A place on the disk that is not what it should be."""

    one: Armed
    handle: Handle
    aux: bool
    start: int
    end: int
    bit: int


@dataclass(slots=True)
class _Apart(Landing):
    """Memory beside the store for one payload."""

    memory: bytearray = field(kw_only=True)


class FaultyStore:
    """A store to which a plan's faults happen. What it has no word for is the inner store's.

    spots: places that are not what they should be. dead: the server that uses it has been killed; nothing it still does happens.
    """

    def __init__(self, inner: Store, injector: Injector, spots: "list[_Spot]") -> None:
        self.inner = inner
        self.spots = spots
        self.dead = False
        self._injector = injector
        self._made: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name not in NAMED:
            return found
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._guarded(name, found)
        return made

    def heal(self) -> None:
        """Lift what is wrong with reads."""
        self.spots.clear()

    def _guarded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self._check()
            for one in self._injector.due("store", name):
                self._fail(one, name)
            return method(*args, **options)

        return call

    def _check(self) -> None:
        if self.dead:
            raise OSError(errno.EIO, "the server has been killed")

    def _fail(self, one: Armed, name: str) -> None:
        """Raise the error of a fault."""
        self._injector.fired(one, name)
        code = int(one.fault.arg("errno", errno.EIO))
        raise OSError(code, os.strerror(code))

    # ---- reads

    def read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False, ranges: bool = True) -> Lent:
        """Lend bytes, or what the disk takes for them."""
        self._check()
        for one in self._injector.due("store", "read"):
            match one.fault.id:
                case "S1" | "N1":
                    if length > 1:
                        self._injector.fired(one, f"{length} at {pos}")
                        length = one.rng.randrange(1, length)
                case "S17":
                    if pos >= (step := int(one.fault.arg("by", 4096))) and not aux:
                        self._injector.fired(one, f"{pos} for {pos - step}")
                        return self._seen(self.inner.read_source(handle, pos - step, length, ranges=False), handle, pos, False)
                case "X7":
                    if not aux:
                        self._injector.fired(one, f"{length} at {pos}")
                        return _lying(self.inner.read_source(handle, pos, length, ranges=False), int(one.fault.arg("by", 1)))
                case "S18" | "S19":
                    self._injector.fired(one, f"at {pos}")
                    at = pos + one.rng.randrange(max(1, length))
                    self.spots.append(_Spot(one, handle, aux, at, at + 1, 1 << one.rng.randrange(8)))
                case _:
                    self._fail(one, "read")
        return self._seen(self.inner.read_source(handle, pos, length, aux=aux, ranges=ranges), handle, pos, aux)

    def try_read_source(self, handle: Handle, pos: int, length: int, *, aux: bool = False) -> Lent | None:
        """The same; nothing here sleeps."""
        return self.read_source(handle, pos, length, aux=aux)

    def _seen(self, lent: Lent, handle: Handle, pos: int, aux: bool) -> Lent:
        spots = [
            spot for spot in self.spots
            if spot.handle == handle and spot.aux == aux and spot.start < pos + lent.length and pos < spot.end
        ]  # fmt: skip
        if not spots:
            return lent
        if any(spot.one.fault.id == "S19" for spot in spots):
            content_of(lent)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        content = bytearray(content_of(lent))
        for spot in spots:
            content[spot.start - pos] ^= spot.bit
        return replace(lent, source=IovIter.ubuf(Direction.SOURCE, content), release=None)

    # ---- writes

    def write_landing(self, handle: Handle, pos: int, length: int, *, aux: bool = False, apart: bool = False) -> Landing:
        """Lend the store's memory; where a write may be cut short, memory beside it, so that the rest comes to nothing."""
        self._check()
        if length and self._injector.active and self._injector.expects("store", "written"):
            return _Apart(IovIter.ubuf(Direction.DEST, memory := bytearray(length)), memory=memory)
        return self.inner.write_landing(handle, pos, length, aux=aux, apart=apart)

    def write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int:
        """Write, or say so."""
        length = len(landing.memory) if isinstance(landing, _Apart) else landing.iter.count
        if self.dead and landing.release is not None:
            landing.release()
        self._check()
        for one in self._injector.due("store", "write"):
            if one.fault.id in {"S1", "N2"}:
                continue
            if one.fault.id in LOST:
                self._injector.fired(one, f"{length} at {pos}")
            if landing.release is not None:
                landing.release()
            if one.fault.id in LOST:
                return length
            self._fail(one, "write")
        self.spots = [spot for spot in self.spots if spot.handle != handle or not pos <= spot.start < pos + length]
        due = self._injector.due("store", "written")
        if isinstance(landing, _Apart):
            short = self._shortened(due, pos, length)
            payload = IovIter.ubuf(Direction.SOURCE, memoryview(landing.memory)[:short])
            done = self.inner.write_from(handle, pos, payload, stable=stable, aux=aux)
        else:
            done = self.inner.write(handle, pos, landing, stable=stable, aux=aux)
        self._misdirect(due, handle, pos, done, aux)
        return done

    def try_write(self, handle: Handle, pos: int, landing: Landing, *, stable: bool, aux: bool = False) -> int | None:
        """The same; nothing here sleeps."""
        return self.write(handle, pos, landing, stable=stable, aux=aux)

    def write_from(self, handle: Handle, pos: int, payload: IovIter, *, stable: bool, aux: bool = False) -> int:
        """Write what landed elsewhere."""
        self._check()
        for one in self._injector.due("store", "write"):
            if one.fault.id not in {"S1", "N2", "S16", *LOST}:
                self._fail(one, "write")
        return self.inner.write_from(handle, pos, payload, stable=stable, aux=aux)

    def _shortened(self, due: Sequence[Armed], pos: int, length: int) -> int:
        """Return how many bytes of a write get to the disk."""
        for one in due:
            if one.fault.id in {"S1", "N2"} and length > 1:
                self._injector.fired(one, f"{length} at {pos}")
                length = one.rng.randrange(1, length)
        return length

    def _misdirect(self, due: Sequence[Armed], handle: Handle, pos: int, done: int, aux: bool) -> None:
        """Move bytes that have just been written to another place."""
        for one in due:
            if one.fault.id == "S16" and not aux and pos >= done:
                self._injector.fired(one, f"{done} at {pos}")
                self.inner.copy_range(handle, pos, handle, pos - done, done)
                self.inner.punch(handle, pos, done)


def _lying(lent: Lent, by: int) -> Lent:
    """Return more bytes than were asked for."""
    content = bytearray(content_of(lent)) + bytes(by)
    return Lent(IovIter.ubuf(Direction.SOURCE, content), len(content), lent.eof)
