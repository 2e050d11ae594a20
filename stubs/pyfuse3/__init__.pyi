# The part of pyfuse3 this project uses. It cannot be installed without libfuse, so the types are checked without it.

RENAME_EXCHANGE: int
RENAME_NOREPLACE: int
default_options: frozenset[str]

class ReaddirToken: ...

class RequestContext:
    uid: int
    gid: int
    pid: int
    umask: int

class SetattrFields:
    update_atime: bool
    update_mtime: bool
    update_mode: bool
    update_uid: bool
    update_gid: bool
    update_size: bool

class EntryAttributes:
    st_ino: int
    generation: int
    entry_timeout: float
    attr_timeout: float
    st_mode: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_rdev: int
    st_size: int
    st_blksize: int
    st_blocks: int
    st_atime_ns: int
    st_ctime_ns: int
    st_mtime_ns: int

class FileInfo:
    fh: int
    direct_io: bool
    keep_cache: bool
    def __init__(self, fh: int = ..., direct_io: bool = ..., keep_cache: bool = ..., nonseekable: bool = ...) -> None: ...

class StatvfsData:
    f_bsize: int
    f_frsize: int
    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int
    f_favail: int
    f_namemax: int

class FUSEError(Exception):
    errno: int
    def __init__(self, errno: int) -> None: ...

class Operations:
    supports_dot_lookup: bool

def init(ops: Operations, mountpoint: str, options: set[str] = ...) -> None: ...
async def main(min_tasks: int = ..., max_tasks: int = ...) -> None: ...
def close(unmount: bool = ...) -> None: ...
def invalidate_inode(inode: int, attr_only: bool = ...) -> None: ...
def readdir_reply(token: ReaddirToken, name: bytes, attr: EntryAttributes, next_id: int) -> bool: ...
