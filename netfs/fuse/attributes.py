"""Sans-IO. Attributes as the kernel wants them, and the few that a mount has to see to itself: whose a new object is, what a
change of content takes from a mode.

The kernel checks permissions (`default_permissions`) and takes set-user-ID bits away at a write; of an open with O_TRUNC, and of
who makes something, only the mount knows. Owns no memory.
"""

import stat
from dataclasses import dataclass, replace
from typing import Final

from pyfuse3 import EntryAttributes, RequestContext

from netfs.fuse.nodes import Node
from transport.messages import Attr, FileType

__all__ = ["MountOptions", "dot_attributes", "entry_attributes", "left_of_mode", "made_by", "nameless"]

FORMATS: Final = {
    FileType.FILE: stat.S_IFREG,
    FileType.DIRECTORY: stat.S_IFDIR,
    FileType.SYMLINK: stat.S_IFLNK,
    FileType.OTHER: stat.S_IFSOCK,
}
BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How a mount behaves.

    direct: reads and writes of files pass the kernel's and the client's caches. writeback: the kernel gathers small writes, and
    keeps times and sizes of files that are written. timeout_s: how long the kernel may believe names and attributes. uid, gid:
    whom everything seems to belong to, None for whom the server says. shared: other users of this machine use it too.
    """

    direct: bool = False
    writeback: bool = False
    timeout_s: float = 1.0
    uid: int | None = None
    gid: int | None = None
    shared: bool = False


def entry_attributes(number: int, attr: Attr, options: MountOptions, *, certain: bool = True) -> EntryAttributes:
    """Return the attributes of an object for the kernel. certain: they may be believed for a while."""
    entry = EntryAttributes()
    entry.st_ino = number
    entry.entry_timeout = options.timeout_s
    entry.attr_timeout = options.timeout_s if certain else 0
    entry.st_mode = FORMATS[attr.type] | attr.mode & 0o7777
    entry.st_nlink = attr.nlink
    entry.st_uid = attr.uid if options.uid is None else options.uid
    entry.st_gid = attr.gid if options.gid is None else options.gid
    entry.st_size = attr.size
    entry.st_blksize = 1 << 16
    entry.st_blocks = -(-attr.size // BLOCK)
    entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
    return entry


def dot_attributes(number: int) -> EntryAttributes:
    """Return those of `.` and `..` in a listing: the kernel takes the number and the type, and counts no lookup."""
    entry = EntryAttributes()
    entry.st_ino = number
    entry.st_mode = stat.S_IFDIR
    return entry


def made_by(attr: Attr, parent: Node, ctx: RequestContext, options: MountOptions) -> dict[str, int]:
    """Return what is to be changed of a new object: it is its maker's, and its group is that of a directory with S_ISGID.

    Whoever runs the mount makes what the server makes of him; other users are told apart here.
    """
    wanted: dict[str, int] = {}
    if options.shared and options.uid is None:
        wanted |= {"uid": ctx.uid, "gid": ctx.gid}
    above = parent.attr
    if above is not None and above.mode & stat.S_ISGID:
        wanted["gid"] = above.gid
        if attr.type is FileType.DIRECTORY:
            wanted["mode"] = attr.mode & 0o7777 | stat.S_ISGID
    return {name: value for name, value in wanted.items() if getattr(attr, name) != value}


def left_of_mode(mode: int, ctx: RequestContext) -> int | None:
    """Return a file's mode after somebody has changed its content, None if it stays as it is."""
    gone = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    return mode & 0o7777 & ~gone if ctx.uid and mode & gone else None


def nameless(node: Node) -> Attr:
    """Return what can still be said of an object that has neither a name nor a descriptor, as of a removed directory."""
    if node.attr is not None:
        return replace(node.attr, nlink=0)
    return Attr(node.server_ino, FileType.FILE, 0, 0, 0, 0, 0, 0, 0, 0, 0)
