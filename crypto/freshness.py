"""Sans-IO. What a client has seen of each file, so that a server cannot go back to what was before: marks and their log.

A mark is the highest generation of a file's record that this client has accepted or written, and a digest of that record. Kept in
memory they hold for one mount (level L0); written to a log on the client's own disk, from one mount to the next (L1).

    header 80   "IOVM" | format u16 | 0 u16 | epoch u32 | key id 16 | nonce 20 | MAC 32
    frame       kind u16 | count u16 | count × (file id 16 | generation u64 | digest 16) | MAC 16

MACs are HMAC-SHA-256 under the volume's `state` key, over the header, and over nonce, position and frame, so a frame is good in
one place of one log only. The log is only ever appended to; a crash leaves a part of the last frame, which is dropped. When too
much of it is outdated, a new log takes its place as a whole. A rollback that was seen is noted and stays noted until somebody
accepts it. Numbers are little-endian. Owns no memory beside its marks: 48 bytes of a file and what Python needs to hold them.
"""

import hmac
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final, NamedTuple

from crypto.errors import IntegrityError, Malformed, Rollback, WrongKey
from crypto.keys import FILE_ID_SIZE, KEY_ID_SIZE, VolumeKey

__all__ = ["LOG_HEADER_SIZE", "LOG_NONCE_SIZE", "FrameKind", "LogReader", "LogWriter", "Marks", "Seen", "new_log"]

MAGIC: Final = b"IOVM"
FORMAT: Final = 1
LOG_NONCE_SIZE: Final = 20
DIGEST_SIZE: Final = 16
FRAME_MAC_SIZE: Final = 16

HEAD: Final = struct.Struct(f"<4sHHI{KEY_ID_SIZE}s{LOG_NONCE_SIZE}s")
HEAD_MAC_SIZE: Final = 32
LOG_HEADER_SIZE: Final = HEAD.size + HEAD_MAC_SIZE
FRAME: Final = struct.Struct("<HH")
MARK: Final = struct.Struct(f"<Q{DIGEST_SIZE}s")
ENTRY: Final = struct.Struct(f"<{FILE_ID_SIZE}s{MARK.size}s")
MOST_IN_A_FRAME: Final = 1024
MOST_FRAME_BYTES: Final = FRAME.size + MOST_IN_A_FRAME * ENTRY.size + FRAME_MAC_SIZE
SLACK: Final = 1 << 16
"""Bytes a log may be longer than half as long again as what it has to say."""


class FrameKind(IntEnum):
    """What the entries of a frame are."""

    SEEN = 1
    """Marks."""
    GONE = 2
    """Files that were removed; their marks are void."""
    TAINT = 3
    """Files of which an older state was shown, and its generation."""
    ACCEPTED = 4
    """Somebody has accepted what the server shows, at a time in nanoseconds: all marks before are void."""


class Seen(NamedTuple):
    """A file and a generation of its record."""

    file_id: bytes
    generation: int


class Marks:
    """The marks of one volume.

    clock: grows with each mark that moves; note it when a request is sent and give it to `observe` with the answer. tainted: the
    rollbacks seen and not accepted. accepted_ns: when rollbacks were accepted.
    """

    __slots__ = ("_gone", "_marks", "_moved", "_moved_at", "_removed", "_told", "accepted_ns", "clock", "tainted")

    def __init__(self) -> None:
        self.clock = 0
        self.tainted: list[Seen] = []
        self.accepted_ns: list[int] = []
        self._marks: dict[bytes, bytes] = {}
        self._moved_at: dict[bytes, int] = {}
        self._moved: dict[bytes, bytes] = {}
        self._gone: dict[bytes, None] = {}
        self._removed: dict[bytes, None] = {}
        self._told = 0

    def __len__(self) -> int:
        return len(self._marks)

    def generation(self, file_id: bytes) -> int:
        """Return the highest generation seen, 0 for a file never seen."""
        mark = self._marks.get(file_id)
        return 0 if mark is None else int(MARK.unpack(mark)[0])

    # ---- what comes from the server, and what was written to it

    def observe(self, file_id: bytes, generation: int, sealed: bytes, asked: int) -> bool:
        """Compare a record the server returned with what was seen before. asked: the clock when it was asked for.

        Returns: false when the answer was overtaken by a later one, so that it is outdated without anybody being at fault.
        Raises: Rollback; the volume is tainted then.
        """
        mark = mark_of(generation, sealed)
        before = self._marks.get(file_id)
        if before == mark:
            return True
        if file_id in self._removed:
            if self._moved_at.get(file_id, -1) > asked:
                return False
            self.tainted.append(Seen(file_id, generation))
            raise Rollback(f"the server shows a file that was removed (file id {file_id.hex()})", file_id=file_id)
        if before is not None:
            highest = int(MARK.unpack(before)[0])
            if generation <= highest:
                if self._moved_at.get(file_id, -1) > asked:
                    return False
                self.tainted.append(Seen(file_id, generation))
                what = "an older state of a file" if generation < highest else "another state of a file"
                raise Rollback(
                    f"the server returned {what} than it did before (file id {file_id.hex()}, "
                    f"generation {generation}, seen {highest})",
                    file_id=file_id,
                )
        self._move(file_id, mark)
        return True

    def committed(self, file_id: bytes, generation: int, sealed: bytes) -> None:
        """Note a record that this client has put and the server has taken."""
        if generation > self.generation(file_id):
            self._move(file_id, mark_of(generation, sealed))

    def removed(self, file_id: bytes) -> None:
        """A file was removed by this client: it is not to be shown again while this lasts; the log only forgets it."""
        if self._marks.pop(file_id, None) is not None:
            self._moved.pop(file_id, None)
            self._gone[file_id] = None
        self.clock += 1
        self._moved_at[file_id] = self.clock
        self._removed[file_id] = None

    def accept(self, now_ns: int) -> None:
        """Believe what the server shows from now on, as after a backup was restored: every mark is void, and the taint."""
        self.tainted.clear()
        self._told = 0
        self.accepted_ns.append(now_ns)
        for waiting in (self._marks, self._moved, self._moved_at, self._gone, self._removed):
            waiting.clear()

    def check(self) -> None:
        """Insist that no rollback was seen. Raises: Rollback."""
        if self.tainted:
            first = self.tainted[0]
            raise Rollback(
                f"the server has shown an older state than it did before, last for file id {first.file_id.hex()}; if a backup "
                "was restored, say netfs volume accept-rollback"
            )

    def _move(self, file_id: bytes, mark: bytes) -> None:
        self.clock += 1
        self._marks[file_id] = self._moved[file_id] = mark
        self._moved_at[file_id] = self.clock
        self._gone.pop(file_id, None)

    # ---- between marks and log

    @property
    def waiting(self) -> int:
        """Entries that are not in the log yet."""
        return len(self._moved) + len(self._gone) + len(self.tainted) - self._told

    def merge(self, kind: FrameKind, entries: bytes | memoryview) -> None:
        """Take a frame of the log: one's own of earlier, or one that another process has appended. The higher mark stays."""
        if kind is FrameKind.SEEN and not self.clock:
            self._marks.update(ENTRY.iter_unpack(entries))  # nothing has moved here: what stands later in the log is higher
        elif kind is FrameKind.SEEN:
            for file_id, mark in ENTRY.iter_unpack(entries):
                before = self._marks.get(file_id)
                if before is None or MARK.unpack(before)[0] < MARK.unpack(mark)[0]:
                    self.clock += 1
                    self._marks[file_id] = mark
                    self._moved_at[file_id] = self.clock
                    self._moved.pop(file_id, None)
        else:
            self._merge_words(kind, entries)

    def _merge_words(self, kind: FrameKind, entries: bytes | memoryview) -> None:
        for file_id, mark in ENTRY.iter_unpack(entries):
            (number, _) = MARK.unpack(mark)
            match kind:
                case FrameKind.GONE:
                    if file_id not in self._moved:
                        self._marks.pop(file_id, None)
                case FrameKind.TAINT:
                    self.tainted.insert(self._told, Seen(file_id, number))
                    self._told += 1
                case FrameKind.ACCEPTED:
                    self._marks = dict(self._moved)
                    del self.tainted[: self._told]
                    self._told = 0
                    self.accepted_ns.append(number)
                case FrameKind.SEEN:
                    raise AssertionError("marks are merged by the caller")

    def waiting_frames(self) -> list[tuple[FrameKind, bytes]]:
        """Return what the log lacks, as the entries of frames; `written` follows."""
        taints = ((seen.file_id, mark_of_number(seen.generation)) for seen in self.tainted[self._told :])
        return [
            *frames_of(FrameKind.SEEN, self._moved.items()),
            *frames_of(FrameKind.GONE, ((file_id, bytes(MARK.size)) for file_id in self._gone)),
            *frames_of(FrameKind.TAINT, taints),
        ]

    def written(self) -> None:
        """The log has it all."""
        self._moved.clear()
        self._gone.clear()
        self._told = len(self.tainted)

    def everything(self) -> Iterator[tuple[FrameKind, bytes]]:
        """Yield the frames of a log that says all there is to say, and no more."""
        accepted = ((bytes(FILE_ID_SIZE), mark_of_number(now_ns)) for now_ns in self.accepted_ns)
        yield from frames_of(FrameKind.ACCEPTED, accepted)
        yield from frames_of(FrameKind.SEEN, self._marks.items())
        yield from frames_of(FrameKind.TAINT, ((seen.file_id, mark_of_number(seen.generation)) for seen in self.tainted))

    def wants_new_log(self, log_bytes: int) -> bool:
        """Say whether too much of a log of that length is outdated."""
        needed = len(self._marks) * ENTRY.size
        return log_bytes > needed + needed // 2 + SLACK


def mark_of(generation: int, sealed: bytes) -> bytes:
    return MARK.pack(generation, sha256(sealed).digest()[:DIGEST_SIZE])


def mark_of_number(number: int) -> bytes:
    return MARK.pack(number, bytes(DIGEST_SIZE))


def frames_of(kind: FrameKind, entries: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[FrameKind, bytes]]:
    """Pack entries into frames of bounded length."""
    packed = [file_id + mark for file_id, mark in entries]
    for at in range(0, len(packed), MOST_IN_A_FRAME):
        yield kind, b"".join(packed[at : at + MOST_IN_A_FRAME])  # header: ids, numbers and digests


# ---- the log


def new_log(key: VolumeKey, nonce: bytes) -> bytes:
    """Return the header of an empty log under the key of its epoch. `nonce`: 20 fresh bytes."""
    head = HEAD.pack(MAGIC, FORMAT, 0, key.epoch, key.key_id, nonce)
    return head + hmac.digest(key.state, head, "sha256")


@dataclass(slots=True)
class LogWriter:
    """Seals frames for one log. pos: where the next frame goes, in bytes."""

    state: bytes
    nonce: bytes
    pos: int = LOG_HEADER_SIZE

    def frame(self, kind: FrameKind, entries: bytes) -> bytes:
        """Return the bytes to append."""
        body = FRAME.pack(kind, len(entries) // ENTRY.size) + entries
        sealed = body + frame_mac(self.state, self.nonce, self.pos, body)
        self.pos += len(sealed)
        return sealed


class LogReader:
    """Verifies a log from its header on, and goes on where it was when there is more.

    Raises: Malformed for what is no log, WrongKey for one of another volume, IntegrityError for a header that was changed.
    """

    __slots__ = ("is_outdated", "writer")

    def __init__(self, key: VolumeKey, content: bytes) -> None:
        if len(content) < LOG_HEADER_SIZE or not content.startswith(MAGIC):
            raise Malformed("not a record of what was seen of a volume")
        magic, form, flags, epoch, key_id, nonce = HEAD.unpack_from(content)
        if magic != MAGIC or form != FORMAT or flags:
            raise Malformed(f"a record of what was seen in format {form}; we speak {FORMAT}")
        of_epoch = key.of_epoch(epoch)
        if of_epoch is None or of_epoch.key_id != key_id:
            raise WrongKey("the record of what was seen is another volume's")
        mac = hmac.digest(of_epoch.state, content[: HEAD.size], "sha256")
        if not hmac.compare_digest(mac, content[HEAD.size : LOG_HEADER_SIZE]):
            raise IntegrityError("the record of what was seen was changed")
        self.writer = LogWriter(of_epoch.state, nonce)
        self.is_outdated = of_epoch is not key
        """Whether it was begun in an earlier epoch of the volume."""

    def frames(self, content: bytes | memoryview) -> Iterator[tuple[FrameKind, memoryview]]:
        """Yield (kind, entries) of what lies in the log behind the last frame read; `content` begins there.

        What a crash has left of a last frame is not yielded, and `writer.pos` is in front of it.
        Raises: IntegrityError for a log that was changed.
        """
        view = memoryview(content)
        at = 0
        while at < len(view):
            body, mac = next_frame(view[at:])
            writer = self.writer
            if not mac or not hmac.compare_digest(frame_mac(writer.state, writer.nonce, writer.pos, body), mac):
                if len(bytes(view[at:]).rstrip(b"\0")) > MOST_FRAME_BYTES:  # header: what follows cannot be one torn frame
                    raise IntegrityError("the record of what was seen was changed")
                return
            try:
                kind = FrameKind(FRAME.unpack_from(body)[0])
            except ValueError:
                raise Malformed("a record of what was seen that says what we do not understand") from None
            at += len(body) + len(mac)
            self.writer.pos += len(body) + len(mac)
            yield kind, body[FRAME.size :]


def next_frame(view: memoryview) -> tuple[memoryview, memoryview]:
    """Split off the first frame. Returns: its body and its MAC, which is empty when the frame is not all there."""
    if len(view) < FRAME.size:
        return view, view[:0]
    _, count = FRAME.unpack_from(view)
    end = FRAME.size + count * ENTRY.size
    if not 0 < count <= MOST_IN_A_FRAME or end + FRAME_MAC_SIZE > len(view):
        return view, view[:0]
    return view[:end], view[end : end + FRAME_MAC_SIZE]


def frame_mac(state: bytes, nonce: bytes, pos: int, body: bytes | memoryview) -> bytes:
    # header: ids, numbers and digests
    return hmac.digest(state, nonce + pos.to_bytes(8, "little") + bytes(body), "sha256")[:FRAME_MAC_SIZE]  # header: no payload
