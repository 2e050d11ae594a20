"""Trio shell. What a server of a real folder keeps over its own end: sessions, the answers of numbered calls, and places.

    .netfs/state.db          SQLite (WAL, synchronous=NORMAL): the machine's boot, sessions, large notes, where handles were seen
    .netfs/slots/<session>   a mapped file: for each slot what is going to be done, and what was answered

A note is two copies into mapped memory, which belong to the kernel at once: `kill -9` loses none, and no call waits for one. A
power cut may lose any, and of the database the last seconds; therefore sessions of another boot of the machine are dropped,
unless the server was stopped in order, which makes all of it durable. Slots, each in its own 4 KiB:

    intent: number, length, CRC-32, data …            at 0       data is the numbered request and what `once.py` looked up
    answer: number, length, CRC-32, status, data …    at 2048    data is the reply's body; too long for its half: in the database

Called from any thread; never from the event loop where the folder's filesystem can sleep. Owns its mappings.
"""

import errno
import mmap
import os
import sqlite3
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from servers.once import Doubt
from servers.sessions import Kept
from transport.base import Limits, Reply
from transport.codec import decode_reply, decode_request, encode_reply, encode_request
from transport.errors import ProtocolError
from transport.messages import Handle, Op, Request, Sequenced

__all__ = ["ServerState", "machine_boot"]

SLOT_BYTES: Final = 4096
ANSWER_AT: Final = 2048
_INTENT: Final = struct.Struct("<QII")
_ANSWER: Final = struct.Struct("<QIIH")
_LENGTH: Final = struct.Struct("<H")
_ELSEWHERE: Final = 1 << 31
"""In a length: the data are in the database."""
_LIMITS: Final = Limits()
_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS sessions (name BLOB PRIMARY KEY, principal TEXT NOT NULL, slots INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS notes (session BLOB, slot INTEGER, answer INTEGER, data BLOB NOT NULL,
        PRIMARY KEY (session, slot, answer)) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS places (handle BLOB PRIMARY KEY, parent BLOB NOT NULL, name BLOB NOT NULL)
        STRICT, WITHOUT ROWID;
"""


def machine_boot() -> str:
    """Return what names this start of the machine, "" where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class _Notes:
    """One session's notes, in its mapped file."""

    def __init__(self, state: "ServerState", name: bytes, path: Path, slots: int) -> None:
        self._state = state
        self._name = name
        size = slots * SLOT_BYTES
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size < size:
                os.truncate(fd, size)
            self.map = mmap.mmap(fd, size)
        finally:
            os.close(fd)

    def intend(self, slot: int, seq: int, request: Request, before: Sequence[bytes]) -> None:
        """See `Keeping`."""
        asked = encode_request(Sequenced(slot, seq, request))
        data = b"".join((_LENGTH.pack(len(before)), *(_LENGTH.pack(len(one)) + one for one in before), asked))  # header: a note
        base = slot * SLOT_BYTES
        length = self._put(slot, data, base + _INTENT.size, ANSWER_AT - _INTENT.size, answer=False)
        self.map[base : base + _INTENT.size] = _INTENT.pack(seq, length, zlib.crc32(data, seq & 0xFFFFFFFF))

    def answer(self, slot: int, seq: int, reply: Reply) -> None:
        """See `Keeping`."""
        data = b"" if reply.status or reply.body is None else encode_reply(reply.body)
        base = slot * SLOT_BYTES + ANSWER_AT
        length = self._put(slot, data, base + _ANSWER.size, SLOT_BYTES - ANSWER_AT - _ANSWER.size, answer=True)
        crc = zlib.crc32(data, seq & 0xFFFFFFFF)
        self.map[base : base + _ANSWER.size] = _ANSWER.pack(seq, length, crc, reply.status)

    def _put(self, slot: int, data: bytes, pos: int, room: int, *, answer: bool) -> int:
        if len(data) <= room:
            self.map[pos : pos + len(data)] = data
            return len(data)
        self._state.note(self._name, slot, data, answer=answer)
        return len(data) | _ELSEWHERE

    def read(self, slot: int) -> tuple[int, Reply | Doubt | None]:
        """Return the last number of a slot, and its answer, or what was begun; None: nothing to go by."""
        base = slot * SLOT_BYTES
        seq, length, crc = _INTENT.unpack_from(self.map, base)
        intent = self._get(slot, base + _INTENT.size, ANSWER_AT - _INTENT.size, length, answer=False)
        answered, length, answer_crc, status = _ANSWER.unpack_from(self.map, base + ANSWER_AT)
        room = SLOT_BYTES - ANSWER_AT - _ANSWER.size
        answer = self._get(slot, base + ANSWER_AT + _ANSWER.size, room, length, answer=True)
        try:
            if answered and answered >= seq and zlib.crc32(answer, answered & 0xFFFFFFFF) == answer_crc:
                return answered, Reply(status, None if status else decode_reply(Op.SEQUENCED, memoryview(answer), _LIMITS))
            if seq and zlib.crc32(intent, seq & 0xFFFFFFFF) == crc:
                return seq, _parse_doubt(intent)
        except (ProtocolError, struct.error, IndexError):
            pass  # a note that was being written when the server was killed: nothing had begun
        return min(answered, max(seq - 1, 0)), None

    def _get(self, slot: int, pos: int, room: int, length: int, *, answer: bool) -> bytes:
        if length & _ELSEWHERE:
            return self._state.noted(self._name, slot, answer=answer)
        return self.map[pos : pos + min(length, room)]


def _parse_doubt(data: bytes) -> Doubt:
    (count,), off = _LENGTH.unpack_from(data), _LENGTH.size
    before = []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(data, off)
        before.append(data[off + _LENGTH.size : off + _LENGTH.size + length])
        off += _LENGTH.size + length
    asked = decode_request(Op.SEQUENCED, memoryview(data)[off:], _LIMITS)
    assert isinstance(asked, Sequenced)
    return Doubt(asked.request, before)


class ServerState:
    """The state in a folder's `.netfs/`. boot: names this start of the machine; sessions of another one are dropped.

    killed: the server before this one was, so that what its answers promise may not be durable yet.

    Raises: OSError when it cannot be opened, with EIO for a damaged database.
    """

    def __init__(self, home: Path, boot: str | None = None) -> None:
        self._slots = home / "slots"
        self._slots.mkdir(mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        self._notes: dict[bytes, _Notes] = {}
        path = home / "state.db"
        path.touch(mode=0o600)
        boot = machine_boot() if boot is None else boot
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_TABLES)
            facts = dict(self._db.execute("SELECT name, value FROM facts"))
            in_order = facts.get("stopped") == "in order"
            kept = in_order or (boot and facts.get("boot") == boot)
            self.killed = bool(kept) and not in_order
            self._db.execute("BEGIN IMMEDIATE")
            if not kept:
                self._db.execute("DELETE FROM sessions")
                self._db.execute("DELETE FROM notes")
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('boot', ?), ('stopped', 'no')", (boot,))
            self._db.execute("COMMIT")
            self._db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            self._db.close()
            raise OSError(errno.EIO, f"the server's state is damaged: {error}", str(path)) from None
        self._sweep()

    def _sweep(self) -> None:
        """Remove the notes of sessions that are no more."""
        live = {name.hex() for (name,) in self._db.execute("SELECT name FROM sessions")}
        for path in self._slots.iterdir():
            if path.name not in live:
                path.unlink()

    # ---- sessions

    def load(self) -> list[Kept]:
        """See `Keeper`."""
        kept = []
        for name, principal, slots in self._db.execute("SELECT name, principal, slots FROM sessions ORDER BY name").fetchall():
            notes = self._notes[name] = _Notes(self, name, self._path(name), slots)
            kept.append(Kept(name, principal, [notes.read(slot) for slot in range(slots)]))
        return kept

    def add(self, name: bytes, principal: str, slots: int) -> _Notes:
        """See `Keeper`."""
        notes = self._notes[name] = _Notes(self, name, self._path(name), slots)
        with self._writing() as db:
            db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (name, principal, slots))
        return notes

    def find(self, name: bytes) -> _Notes:
        """See `Keeper`."""
        return self._notes[name]

    def drop(self, name: bytes) -> None:
        """See `Keeper`. Calls that still run note on, in a file without a name; its mapping goes with the last of them."""
        self._notes.pop(name, None)
        with self._writing() as db:
            db.execute("DELETE FROM sessions WHERE name = ?", (name,))
            db.execute("DELETE FROM notes WHERE session = ?", (name,))
        with suppress(FileNotFoundError):
            self._path(name).unlink()

    def _path(self, name: bytes) -> Path:
        return self._slots / name.hex()

    def note(self, session: bytes, slot: int, data: bytes, *, answer: bool) -> None:
        """Keep a note that is too long for a slot."""
        with self._writing() as db:
            if session not in self._notes:
                return
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)", (session, slot, int(answer), data))

    def noted(self, session: bytes, slot: int, *, answer: bool) -> bytes:
        """Return such a note, b"" when there is none."""
        query = "SELECT data FROM notes WHERE session = ? AND slot = ? AND answer = ?"
        row = self._db.execute(query, (session, slot, int(answer))).fetchone()
        return b"" if row is None else row[0]

    # ---- places

    def remember_places(self, places: Sequence[tuple[Handle, Handle, bytes]]) -> None:
        """See `Places`: handle, parent and name of each."""
        self._write_each("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", places)

    def _write_each(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Do a statement for each row, all or none. One row is a transaction by itself. Raises: as `_writing`."""
        if len(rows) > 1:
            with self._writing() as db:
                db.executemany(statement, rows)
            return
        try:
            with self._lock:
                self._db.execute(statement, rows[0])
        except sqlite3.Error as error:
            raise _unwritable(error) from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction. Raises: OSError(EIO) when the database cannot be written."""
        try:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise _unwritable(error) from None

    def forget_places(self, handles: Sequence[Handle]) -> None:
        """See `Places`."""
        self._write_each("DELETE FROM places WHERE handle = ?", [(handle,) for handle in handles])

    def place(self, handle: Handle) -> tuple[Handle, bytes] | None:
        """Return where an object was seen last: its parent and name."""
        with self._lock:
            row = self._db.execute("SELECT parent, name FROM places WHERE handle = ?", (handle,)).fetchone()
        return None if row is None else (Handle(row[0]), row[1])

    # ---- the end

    def close(self) -> None:
        """Make everything durable and say so: sessions outlive even a restart of the machine."""
        for notes in self._notes.values():
            notes.map.flush()
            notes.map.close()
        self._notes.clear()
        with self._lock:
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('stopped', 'in order')")
            self._db.close()


def _unwritable(error: sqlite3.Error) -> OSError:
    return OSError(errno.EIO, f"the server's state cannot be written: {error}")
