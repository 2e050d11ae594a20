"""Trio shell. What was seen of a volume, for one mount or, in a log that is a file of the user's, from one mount to the next.

Several processes may have the same volume open: each takes the lock, reads what the others have appended, and appends its own.
Calls are short and local (an append of 60 bytes to a file that is open) and made from the Trio thread. What a kill leaves is
whole up to the last append; what a power cut takes only lowers marks. The format is `crypto/freshness.py`. Owns no memory.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crypto.errors import CryptoError
from crypto.freshness import LOG_HEADER_SIZE, LOG_NONCE_SIZE, LogReader, LogWriter, Marks, new_log
from netfs.fs.freshness import Freshness

if TYPE_CHECKING:
    from crypto.keys import VolumeKey

__all__ = ["SeenLog", "log_path", "open_freshness"]

FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


def log_path(folder: str | os.PathLike[str], key: "VolumeKey") -> Path:
    """Return the path of the log of a volume, or of a folder that has a key and no header."""
    name = key.vol_id.hex() if any(key.vol_id) else f"key-{key.key_id.hex()}"
    return Path(folder) / f"{name}.seen"


class SeenLog:
    """A log, and the marks in it. marks: complete at once; what is added to them reaches the file by `commit` and `close`."""

    def __init__(self, path: Path, key: "VolumeKey", fresh: Callable[[int], bytes]) -> None:
        """Read the log, or begin one. Raises: OSError, CryptoError for a log that is another volume's or was changed."""
        self.path = path
        self.marks = Marks()
        self._key = key
        self._fresh = fresh
        self._log = -1
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(path.with_suffix(".lock"), FLAGS, 0o600)
        try:
            with self._locked():
                self._load()
        except BaseException:
            self.close_files()
            raise

    def commit(self) -> None:
        """Append what is waiting. Raises: OSError; it goes on waiting."""
        if not self.marks.waiting:
            return
        with self._locked():
            if not self._is_current():
                self._load()
            else:
                self._catch_up()
            start = self._writer.pos
            if self.marks.wants_new_log(start):
                self._begin()
            else:
                frames = [self._writer.frame(kind, entries) for kind, entries in self.marks.waiting_frames()]
                try:
                    write_all(self._log, b"".join(frames), start)  # header: ids, numbers and digests
                except OSError:
                    self._writer.pos = start
                    raise
            self.marks.written()

    def accept(self, now_ns: int) -> None:
        """Void every mark and the taint, for good. Raises: OSError."""
        with self._locked():
            self.marks.accept(now_ns)
            self._begin()
            self.marks.written()

    def close(self) -> None:
        """Append what is waiting, see to it that a power cut cannot take it, and close. Idempotent. Raises: OSError."""
        if self._log < 0:
            return
        try:
            self.commit()
            os.fsync(self._log)
        finally:
            self.close_files()

    def close_files(self) -> None:
        """Close without writing."""
        for fd in (self._log, self._lock):
            if fd >= 0:
                os.close(fd)
        self._log = self._lock = -1

    # ---- under the lock

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _is_current(self) -> bool:
        """Say whether the log that is open is still the one at the path: another process may have begun a new one."""
        try:
            return os.path.samestat(os.fstat(self._log), self.path.stat())
        except FileNotFoundError:
            return False

    def _load(self) -> None:
        """Open the log at the path and read all of it."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        try:
            self._log = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            self._begin()
            return
        head = os.pread(self._log, LOG_HEADER_SIZE, 0)
        self._reader = LogReader(self._key, head)
        self._writer: LogWriter = self._reader.writer
        self._catch_up()
        if self._reader.is_outdated or self.marks.wants_new_log(self._writer.pos):
            self._begin()

    def _catch_up(self) -> None:
        """Read what was appended since, and cut off what a crash has left of an append."""
        size = os.fstat(self._log).st_size
        if size < self._writer.pos:
            raise OSError(errno.EBADMSG, "the record of what was seen was cut off", str(self.path))
        if size > self._writer.pos:
            for kind, entries in self._reader.frames(memoryview(read_all(self._log, self._writer.pos, size))):
                self.marks.merge(kind, entries)
            os.ftruncate(self._log, self._writer.pos)

    def _begin(self) -> None:
        """Put a new log with everything in the place of the one there is."""
        head = new_log(self._key, self._fresh(LOG_NONCE_SIZE))
        reader = LogReader(self._key, head)
        temporary = self.path.with_suffix(".new")
        log = os.open(temporary, FLAGS | os.O_TRUNC, 0o600)
        try:
            write_all(log, head, 0)
            for kind, entries in self.marks.everything():
                pos = reader.writer.pos
                write_all(log, reader.writer.frame(kind, entries), pos)
            os.fsync(log)
            temporary.replace(self.path)
        except BaseException:
            os.close(log)
            temporary.unlink(missing_ok=True)
            raise
        if self._log >= 0:
            os.close(self._log)
        self._log, self._reader, self._writer = log, reader, reader.writer


def read_all(fd: int, pos: int, end: int) -> bytearray:
    """Read a range of a file, as far as it goes."""
    content = bytearray(end - pos)
    at = 0
    while at < len(content):
        count = os.preadv(fd, [memoryview(content)[at:]], pos + at)
        if not count:
            break
        at += count
    del content[at:]
    return content


def write_all(fd: int, content: bytes, pos: int) -> None:
    """Write all of it."""
    view = memoryview(content)
    while view:
        count = os.pwrite(fd, view, pos)
        pos += count
        view = view[count:]


def open_freshness(
    folder: str | os.PathLike[str] | None, key: "VolumeKey", fresh: Callable[[int], bytes], *, tainted: bool = False
) -> Freshness:
    """Open the log of a volume in a folder; without one, begin with marks in memory. tainted: also after a rollback.

    Raises: OSError; ESTALE when a rollback was seen, EBADMSG, EPROTO or EKEYREJECTED for a log that cannot be believed.
    """
    if folder is None:
        return Freshness()
    path = log_path(folder, key)
    try:
        log = SeenLog(path, key, fresh)
    except CryptoError as error:
        raise OSError(error.errno, str(error), str(path)) from error
    try:
        if not tainted:
            log.marks.check()
    except CryptoError as error:
        log.close_files()
        raise OSError(error.errno, str(error)) from error
    return Freshness(log)
