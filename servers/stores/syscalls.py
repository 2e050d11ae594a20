"""Trio shell. The Linux calls Python lacks, through ctypes: statx, openat2, getdents64, renameat2, fallocate and their like.

Every call raises `OSError`. Names are bytes, one component each. Owns no memory.
Follows statx(2), openat2(2), getdents(2), statfs(2), syncfs(2), renameat2(2), fallocate(2), utimensat(2), chown(2).
"""

import ctypes
import errno
import functools
import os
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from servers.stores.base import fail
from transport.messages import Attr, FileType

__all__ = [
    "FALLOC_KEEP_SIZE", "FALLOC_PUNCH_HOLE", "Statx", "change_owner", "fallocate", "is_memory", "list_names", "open_beneath",
    "open_cached",
    "rename_beneath", "require_linux", "set_times", "statx", "sync_filesystem",
]  # fmt: skip

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_SYMLINK_NOFOLLOW: Final = 0x100
STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800
_WANTED: Final = STATX_BASIC_STATS | STATX_BTIME
_BY_NAME: Final = AT_SYMLINK_NOFOLLOW
_BY_DESCRIPTOR: Final = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW
SYS_OPENAT2: Final = 437  # the same number on every architecture
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_CACHED: Final = 0x20
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
TMPFS_MAGIC: Final = 0x01021994
RAMFS_MAGIC: Final = 0x858458F6
_STATX_SIZE: Final = 256
# mask blksize attributes nlink uid gid mode - ino size blocks attributes_mask, four times (s, ns, -), rdev, dev
_STATX: Final = struct.Struct("=2IQ3I2H4Q" + 4 * "qIi" + "4I")
_OPEN_HOW: Final = struct.Struct("=3Q")
_TIMES: Final = struct.Struct("@4l")
_DIRENT: Final = struct.Struct("=QqHB")
_DIRENT_BUFFER: Final = 1 << 15
_GIVE_UP_AFTER: Final = 16
_S_IFMT: Final = 0o170000
_S_IMODE: Final = 0o7777
_TYPES: Final = {stat.S_IFREG: FileType.FILE, stat.S_IFDIR: FileType.DIRECTORY, stat.S_IFLNK: FileType.SYMLINK}


@dataclass(slots=True)
class Statx:
    """What statx said. birth_ns: None where the filesystem keeps no birth time."""

    dev: int
    ino: int
    birth_ns: int | None
    type: FileType
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    def attr(self, changes: int = 0, *, sealed: bool = False) -> Attr:
        """Return the attributes; `changes` made through this server tell apart what one tick of the file clock cannot."""
        change = max(self.ctime_ns, 0) + changes
        return Attr(
            self.ino, self.type, self.mode, self.nlink, self.uid, self.gid, self.size,
            self.atime_ns, self.mtime_ns, self.ctime_ns, change, sealed,
        )  # fmt: skip


def require_linux() -> None:
    """Raises: ENOTSUP anywhere else."""
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "the directory store needs Linux; use the memory store")


@functools.cache
def _libc() -> ctypes.CDLL:
    require_linux()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    libc.syscall.restype = ctypes.c_long
    libc.getdents64.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
    libc.getdents64.restype = ctypes.c_ssize_t
    libc.syncfs.argtypes = (ctypes.c_int,)
    libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)
    libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    libc.utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
    libc.fchownat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_int)
    return libc


class _StatxCall(threading.local):
    """What a thread needs to ask, made once: the function, and memory for the answer with its address."""

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(_STATX_SIZE)
        self.asked = _libc().statx, ctypes.addressof(self.memory), self.memory


_statx_call: Final = _StatxCall() if sys.platform == "linux" else None


def statx(dir_fd: int, name: bytes = b"") -> Statx:
    """Look at `name` in a directory, not following a symlink, or at the descriptor itself."""
    assert _statx_call is not None
    call, address, memory = _statx_call.asked
    if call(dir_fd, name, _BY_NAME if name else _BY_DESCRIPTOR, _WANTED, address):
        raise fail(ctypes.get_errno())
    (mask, _, _, nlink, uid, gid, mode, _, ino, size, _, _, a_s, a_ns, _, b_s, b_ns, _, c_s, c_ns, _, m_s, m_ns, _,
     _, _, major, minor) = _STATX.unpack_from(memory)  # fmt: skip
    return Statx(
        major << 32 | minor,
        ino,
        b_s * 1_000_000_000 + b_ns if mask & STATX_BTIME else None,
        _TYPES.get(mode & _S_IFMT, FileType.OTHER),
        mode & _S_IMODE,
        nlink,
        uid,
        gid,
        size,
        a_s * 1_000_000_000 + a_ns,
        m_s * 1_000_000_000 + m_ns,
        c_s * 1_000_000_000 + c_ns,
    )


def open_beneath(dir_fd: int, name: bytes, flags: int, mode: int = 0) -> int:
    """Open one component and follow nothing, neither a symlink nor a way out of the directory.

    One component and O_NOFOLLOW confine already; the kernel's own confinement is the second lock.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if b"/" in name or name in {b"", b".."}:
        raise fail(errno.EINVAL)
    if _has_openat2():
        how = _OPEN_HOW.pack(flags, mode, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
        for _ in range(_GIVE_UP_AFTER):
            fd: int = _libc().syscall(SYS_OPENAT2, dir_fd, name, how, len(how))
            if fd >= 0:
                return fd
            code = ctypes.get_errno()
            if code not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: a rename elsewhere made the walk uncertain
                raise fail(code)
    return os.open(name, flags, mode, dir_fd=dir_fd)


def open_cached(dir_fd: int, name: bytes) -> int | None:
    """Open one component as O_PATH if the kernel knows it without asking a disk, else None; never sleeps, follows nothing."""
    if b"/" in name or name in {b"", b".."} or not _has_openat2():
        return None
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    how = _OPEN_HOW.pack(flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED)
    fd: int = _libc().syscall(SYS_OPENAT2, dir_fd, name, how, len(how))
    return fd if fd >= 0 else None


@functools.cache
def _has_openat2() -> bool:
    how = _OPEN_HOW.pack(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS)
    fd: int = _libc().syscall(SYS_OPENAT2, AT_FDCWD, b".", how, len(how))
    if fd >= 0:
        os.close(fd)
    return fd >= 0 or ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)


def list_names(fd: int, cookie: int) -> Iterator[tuple[bytes, int]]:
    """Yield (name, cookie) of what stands behind `cookie` in a directory opened for reading, without . and .. ."""
    buffer = ctypes.create_string_buffer(_DIRENT_BUFFER)
    os.lseek(fd, cookie, os.SEEK_SET)
    while filled := _libc().getdents64(fd, buffer, _DIRENT_BUFFER):
        if filled < 0:
            raise fail(ctypes.get_errno())
        raw = memoryview(buffer)[:filled]
        off = 0
        while off < filled:
            _, behind, record_length, _ = _DIRENT.unpack_from(raw, off)
            name = bytes(raw[off + _DIRENT.size : off + record_length]).split(b"\0", 1)[0]
            off += record_length
            if name not in (b".", b".."):
                yield name, behind


def rename_beneath(fd: int, name: bytes, new_fd: int, new_name: bytes, flags: int) -> None:
    """Rename with the flags of renameat2, of which RENAME_NOREPLACE is 1 and RENAME_EXCHANGE 2."""
    if _libc().renameat2(fd, name, new_fd, new_name, flags):
        raise fail(ctypes.get_errno())


def fallocate(fd: int, mode: int, pos: int, length: int) -> None:
    """Allocate a range, or with FALLOC_PUNCH_HOLE give it back."""
    while _libc().fallocate(fd, mode, pos, length):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise fail(code)


def set_times(fd: int, atime_ns: int | None, mtime_ns: int | None, now: int) -> None:
    """Set times of what a descriptor stands for, an O_PATH one of a symlink included. None: left; `now`: the kernel's clock."""
    times: list[int] = []
    for moment in (atime_ns, mtime_ns):
        if moment is None:
            times += (0, UTIME_OMIT)
        elif moment == now:
            times += (0, UTIME_NOW)
        else:
            times += divmod(moment, 1_000_000_000)
    if _libc().utimensat(fd, b"", _TIMES.pack(*times), AT_EMPTY_PATH):
        raise fail(ctypes.get_errno())


def change_owner(fd: int, uid: int | None, gid: int | None) -> None:
    """Change the owner of what a descriptor stands for, an O_PATH one of a symlink included. None: left."""
    nobody = 0xFFFFFFFF
    if _libc().fchownat(fd, b"", nobody if uid is None else uid, nobody if gid is None else gid, AT_EMPTY_PATH):
        raise fail(ctypes.get_errno())


def sync_filesystem(fd: int) -> None:
    """Make everything durable that is on the filesystem of a descriptor, which is not an O_PATH one."""
    if _libc().syncfs(fd):
        raise fail(ctypes.get_errno())


def is_memory(fd: int) -> bool:
    """Tell whether the filesystem of a descriptor lives in memory, so that no call on it waits for a disk."""
    buffer = ctypes.create_string_buffer(256)
    if _libc().fstatfs(fd, buffer):
        raise fail(ctypes.get_errno())
    magic = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
    return magic in (TMPFS_MAGIC, RAMFS_MAGIC)
