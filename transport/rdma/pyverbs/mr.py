"""Trio shell. pyverbs.mr: regions and windows over real addresses. A region allocates its buffer unless given an address."""

import ctypes
import errno
from typing import TYPE_CHECKING, Final

from transport.rdma.enums import Access, MwType
from transport.rdma.mr import MR as Region  # noqa: N811 - a class
from transport.rdma.pyverbs import driver, mem_alloc
from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.device import DM
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError, translated
from transport.rdma.wr import MwBind

if TYPE_CHECKING:
    from transport.rdma.pyverbs.pd import PD

__all__ = ["DMMR", "MR", "MW", "DmaBufMR", "MWBind", "MWBindInfo"]

PAGE: Final = 4096


class MR(PyverbsObject):
    """A memory region; `buf` is the real address of its memory, which is also what peers use."""

    rank = 4

    def __init__(
        self,
        creator: "PD",
        length: float = 0,
        access: int = 0,
        address: int | None = None,
        implicit: bool = False,
        handle: int | None = None,
    ) -> None:
        super().__init__()
        self.pd = creator
        self.length = int(length)
        self.buf = address or 0
        self.imported = handle is not None
        self.own = False
        if handle is not None:
            shared = creator.ctx.objects.get(handle)
            if not isinstance(shared, Region):
                raise PyverbsRDMAError("Failed to import MR", errno.ENOENT)
            self.mr = shared
            self.handle = handle
            return
        self.mr = self._register(int(access), implicit)
        self.handle = creator.ctx.remember(self.mr)
        self.hang_on(creator)

    def _register(self, access: int, implicit: bool) -> Region:
        with translated(f"Failed to register a MR. length: {self.length}, access flags: {access}"):
            if not self.buf and self.length:
                # One page more: programs put offsets behind the length they registered, as pyverbs' buffers allow.
                self.buf = mem_alloc.posix_memalign(2 * self.length + PAGE, PAGE)
                self.own = True
            try:
                if implicit:
                    return self.pd.pd.reg_implicit_mr(access)
                iova = 0 if access & Access.ZERO_BASED else self.buf
                return self.pd.pd.reg_mr(driver.view_at(self.buf, self.length), access, iova)
            except BaseException:
                self._free()
                raise

    def _free(self) -> None:
        if self.own:
            self.own = False
            mem_alloc.free(self.buf)

    @property
    def lkey(self) -> int:
        """The local key."""
        return self.mr.lkey

    @property
    def rkey(self) -> int:
        """The remote key."""
        return self.mr.rkey

    def write(self, data: str | bytes, length: int, offset: int = 0) -> None:
        """Put data into the memory."""
        if not self.buf:
            raise PyverbsUserError("the region has no buffer of its own")
        raw = data.encode() if isinstance(data, str) else data
        ctypes.memmove(self.buf + offset, raw, min(length, len(raw)))

    def read(self, length: int, offset: int = 0) -> bytes:
        """Return bytes of the memory."""
        if not self.buf:
            raise PyverbsUserError("the region has no buffer of its own")
        return ctypes.string_at(self.buf + offset, length)

    def rereg(self, flags: int, pd: "PD | None" = None, addr: int = 0, length: int = 0, access: int = 0) -> None:
        """Change memory, domain or permissions; see `transport.rdma.mr.MR.rereg`."""
        view = driver.view_at(addr, length) if addr and length else None
        with translated("Failed to rereg MR"):
            self.mr.rereg(int(flags), None if pd is None else pd.pd, view, addr, int(access))
        if view is not None:
            self._free()
            self.buf = addr
            self.length = length
        if pd is not None:
            self.pd.children.remove(self)
            self.parents.remove(self.pd)
            self.pd = pd
            self.hang_on(pd)

    def unimport(self) -> None:
        """Give an import up; the region stays with its owner."""
        self.closed = True

    def destroy(self) -> None:
        """Deregister, and free the buffer that the region allocated."""
        if not self.imported:
            with translated("Failed to dereg MR"):
                self.mr.dereg()
            self._free()


class DMMR(MR):
    """A region over device memory: zero-based, without an address of its own."""

    def __init__(self, creator: "PD", length: float, access: int, dm: DM, offset: int) -> None:
        self.dm = dm
        self.offset = offset
        super().__init__(creator, length, access)
        dm.children.append(self)

    def _register(self, access: int, implicit: bool) -> Region:
        with translated(f"Failed to register a device MR. length: {self.length}, access flags: {access}"):
            return self.pd.pd.reg_dm_mr(self.dm.dm, self.offset, self.length, access)

    def write(self, data: str | bytes, length: int, offset: int = 0) -> None:
        """Put data into the device memory."""
        raw = data.encode() if isinstance(data, str) else data
        self.dm.copy_to_dm(self.offset + offset, raw, length)

    def read(self, length: int, offset: int = 0) -> bytes:
        """Return bytes of the device memory."""
        return self.dm.copy_from_dm(self.offset + offset, length)


class DmaBufMR(MR):
    """A region over a dma-buf, which is not emulated."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise PyverbsRDMAError("dma-buf is not emulated", errno.EOPNOTSUPP)


class MWBindInfo:
    """What a window covers."""

    def __init__(self, mr: MR, addr: int, length: int, mw_access_flags: int) -> None:
        self.mr = mr
        self.addr = addr
        self.length = length
        self.mw_access_flags = int(mw_access_flags)

    def device_form(self) -> MwBind:
        """Return the device's form."""
        return MwBind(self.mr.mr, self.addr, self.length, self.mw_access_flags)


class MWBind:
    """A bind verb's arguments, for a window of type 1."""

    def __init__(self, info: MWBindInfo, send_flags: int, wr_id: int = 0) -> None:
        self.info = info
        self.send_flags = int(send_flags)
        self.wr_id = wr_id


class MW(PyverbsObject):
    """A memory window."""

    rank = 3

    def __init__(self, pd: "PD", mw_type: int) -> None:
        super().__init__()
        try:
            kind = MwType(int(mw_type))
        except ValueError:
            raise PyverbsRDMAError("Failed to allocate MW", errno.EINVAL) from None
        with translated("Failed to allocate MW"):
            self.mw = pd.pd.alloc_mw(kind)
        self.hang_on(pd)

    @property
    def rkey(self) -> int:
        """The window's key."""
        return self.mw.rkey

    def destroy(self) -> None:
        """Free the window."""
        self.mw.dealloc()
