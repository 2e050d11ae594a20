"""Trio shell. pyverbs.mem_alloc: memory by address from the C library, for programs that name memory by integers.

The caller owns what it is given and frees it by address.
"""

import ctypes
import ctypes.util
import errno
import mmap as memory_map
from typing import Final

from transport.rdma.pyverbs.pyverbs_error import PyverbsError, PyverbsRDMAError

__all__ = [
    "MAP_ANONYMOUS_", "MAP_HUGETLB_", "MAP_PRIVATE_", "MAP_SHARED_", "PROT_EXEC_", "PROT_READ_", "PROT_WRITE_", "free", "madvise",
    "malloc", "mmap", "munmap", "posix_memalign", "read32", "write32",
]  # fmt: skip

PROT_READ_: Final = memory_map.PROT_READ
PROT_WRITE_: Final = memory_map.PROT_WRITE
PROT_EXEC_: Final = memory_map.PROT_EXEC
MAP_PRIVATE_: Final = memory_map.MAP_PRIVATE
MAP_SHARED_: Final = memory_map.MAP_SHARED
MAP_ANONYMOUS_: Final = memory_map.MAP_ANONYMOUS
MAP_HUGETLB_: Final = 0x40000
MAP_FAILED: Final = ctypes.c_void_p(-1).value

libc: Final = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.posix_memalign.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)


def mmap(
    addr: int = 0,
    length: int = 100,
    prot: int = PROT_READ_ | PROT_WRITE_,
    flags: int = MAP_PRIVATE_ | MAP_ANONYMOUS_,
    fd: int = -1,
    offset: int = 0,
) -> int:
    """Map memory and return its address.

    Raises: PyverbsRDMAError with the errno of mmap(2).
    """
    address = libc.mmap(addr or None, length, prot, flags, fd, offset)
    if address == MAP_FAILED:
        raise PyverbsRDMAError("Failed to mmap", ctypes.get_errno())
    return int(address)


def munmap(addr: int, length: int) -> None:
    """Unmap memory."""
    if libc.munmap(addr, length):
        raise PyverbsRDMAError("Failed to munmap", ctypes.get_errno())


def madvise(addr: int, length: int, flags: int = memory_map.MADV_DONTNEED) -> None:
    """Give advice about memory."""
    if libc.madvise(addr, length, flags):
        raise PyverbsRDMAError("Failed to madvise", ctypes.get_errno())


def posix_memalign(size: int, alignment: int = 8) -> int:
    """Allocate aligned memory and return its address."""
    pointer = ctypes.c_void_p()
    code = libc.posix_memalign(ctypes.byref(pointer), alignment, size)
    if code or pointer.value is None:
        raise PyverbsRDMAError("Failed to allocate memory", code or errno.ENOMEM)
    ctypes.memset(pointer, 0, size)
    return pointer.value


def malloc(size: int) -> int:
    """Allocate memory and return its address."""
    address = libc.malloc(size)
    if not address:
        raise PyverbsError(f"Failed to allocate memory of size {size}")
    return int(address)


def free(ptr: int) -> None:
    """Free what `malloc` or `posix_memalign` gave."""
    libc.free(ptr)


def write32(addr: int, val: int) -> None:
    """Write 32 bits at an address."""
    ctypes.c_uint32.from_address(addr).value = val


def read32(addr: int) -> int:
    """Read 32 bits at an address."""
    return int(ctypes.c_uint32.from_address(addr).value)
