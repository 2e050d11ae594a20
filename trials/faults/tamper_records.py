"""Trio shell. Lies about whole objects: one for another, all of them old, attributes, transactions that did not happen.

Memory: the answers they are given are copies, and theirs to change.
"""

import errno
from collections.abc import Sequence
from dataclasses import replace

from iov.copy_iter import copy_to_iter
from iov.iov_iter import IovIter
from transport.base import Landing
from transport.messages import Attr, DirEntry, EntryReply, FileType, Handle, Step, StepKind
from trials.faults.tamper import Attack, Kept, TamperStore, attack


class InsteadOf(Attack):
    """Show one object's streams and record for another's."""

    def another(self, handle: Handle) -> Handle | None:
        """Return the object to show: `other`, or any of the same kind."""
        if self.other is not None:
            return None if self.other == handle else self.other
        mine = self.server.versions(handle)
        kind = bool(mine and mine[-1].listing)
        found = (each for each, past in self.server.kept.items() if each != handle and past and past[-1].record)
        return next((each for each in found if bool(self.server.kept[each][-1].listing) == kind), None)

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        other = self.another(handle)
        return content if other is None else bytearray(self.server.stream(other)[pos : pos + wanted])

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        other = self.another(handle)
        return content if other is None else bytearray(self.server.stream(other, aux=True)[pos : pos + len(content)])

    def record(self, handle: Handle, record: bytes) -> bytes:
        other = self.another(handle)
        if other is None or not record:
            return record
        self.strike()
        return self.server.inner.record_get(other)[0]


@attack
class CopyOver(InsteadOf):
    """A13."""

    ID = "A13"
    TEXT = "show one file's data, tags and record under another file's name"


@attack
class FolderPoison(InsteadOf):
    """A16."""

    ID = "A16"
    TEXT = "show another directory's record, and with it the id its names are encrypted under"

    def aims_at(self, handle: Handle) -> bool:
        return super().aims_at(handle) and self.server.inner.getattr(handle).type is FileType.DIRECTORY


@attack
class CrossVolume(InsteadOf):
    """A47."""

    ID = "A47"
    TEXT = "show an object of another volume of the same user"


@attack
class VolumeRollback(Attack):
    """A11."""

    ID = "A11"
    TEXT = "show every object as it was at one moment"

    def __init__(self, server: TamperStore, variant: str) -> None:
        super().__init__(server, variant)
        self.moment = 0

    def then(self, handle: Handle) -> Kept | None:
        """Return an object as it was; the first version of those that came later."""
        past = self.server.versions(handle)
        return self.server.at(handle, self.moment) or (past[0] if past else None)

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        past = self.then(handle)
        return content if past is None else bytearray(past.data[pos : pos + wanted])

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        past = self.then(handle)
        return content if past is None else bytearray(past.aux[pos : pos + max(1 << 16, len(content))])

    def record(self, handle: Handle, record: bytes) -> bytes:
        past = self.then(handle)
        if past is None or past.record == record:
            return record
        self.strike()
        return past.record

    def listing(self, handle: Handle, entries: list[DirEntry]) -> list[DirEntry]:
        past = self.then(handle)
        return entries if past is None else [replace(entry) for entry in past.listing]

    def missed(self, parent: Handle, name: str, error: OSError) -> EntryReply:
        past = self.then(parent)
        for entry in () if past is None else past.listing:
            if entry.name == name:
                return EntryReply(entry.handle, entry.attr, entry.record or b"", 1, entry.certificate)
        raise error


@attack
class Attributes(Attack):
    """A20."""

    ID = "A20"
    TEXT = "tell other modes, owners, times or sizes"
    VARIANTS = ("mode", "owner", "mtime", "size")

    def attr(self, handle: Handle, attr: Attr) -> Attr:
        self.strike()
        match self.variant:
            case "mode":
                attr.mode ^= 0o6077
            case "owner":
                attr.uid += 4242
                attr.gid += 4242
            case "mtime":
                attr.mtime_ns += 10**15
            case _:
                attr.size += 12345
        return attr


@attack
class Version(Attack):
    """A46."""

    ID = "A46"
    TEXT = "show a record of a format to come, with unknown flags, or of an object of another kind"
    VARIANTS = ("format", "flags", "magic", "length", "kind")

    def record(self, handle: Handle, record: bytes) -> bytes:
        if not record or self.variant == "kind":
            return record
        self.strike()
        match self.variant:
            case "format":
                return record[:4] + (record[4] + 1).to_bytes(1, "little") + record[5:]
            case "flags":
                return record[:6] + b"\x01" + record[7:]
            case "magic":
                return b"IOVD" + record[4:]
            case _:
                return record + bytes(1 << 15)

    def attr(self, handle: Handle, attr: Attr) -> Attr:
        if self.variant == "kind" and attr.type is not FileType.DIRECTORY:
            self.strike()
            attr.type = FileType.SYMLINK if attr.type is FileType.FILE else FileType.FILE
        return attr


@attack
class LiedCommit(Attack):
    """A35."""

    ID = "A35"
    TEXT = "say that a commit was done: do nothing of it, or the record without the tags, or the tags without the record"
    VARIANTS = ("dropped", "record-only", "tags-only")

    def transact(self, steps: Sequence[Step], payload: IovIter | None) -> tuple[Sequence[Step], IovIter | None] | None:
        if not any(step.kind is StepKind.RECORD_PUT and self.aims_at(step.handle) for step in steps):
            return steps, payload
        self.strike()
        if self.variant == "dropped":
            return None
        if self.variant == "record-only":
            return [step for step in steps if step.kind is not StepKind.AUX_WRITE], None
        # The transaction must move the generation it asserts: the record that is there is put once more.
        return [
            replace(step, record=self.server.inner.record_get(step.handle)[0]) if step.kind is StepKind.RECORD_PUT else step
            for step in steps
        ], payload


@attack
class Poison(InsteadOf):
    """A14."""

    ID = "A14"
    TEXT = "have another file's record ready for a file that a client is about to create"

    def words(self, method: str, handle: Handle, answer: object, *rest: object) -> object:
        if method == "create" and isinstance(answer, EntryReply) and not self.server.inner.record_get(answer.handle)[0]:
            other = self.another(answer.handle)
            if other is not None:
                self.strike()
                record = self.server.inner.record_get(other)[0]
                self.server.inner.transact([], 0, [Step(StepKind.RECORD_PUT, answer.handle, record=record)], None)
        return answer

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        return content

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        return content

    def record(self, handle: Handle, record: bytes) -> bytes:
        return record


@attack
class WrongWords(InsteadOf):
    """A21."""

    ID = "A21"
    TEXT = "show the target of another symbolic link, another file's extended attributes, or their names exchanged"
    VARIANTS = ("target", "xattrs", "xattr-bytes")

    def words(self, method: str, handle: Handle, answer: object, *rest: object) -> object:
        other = self.another(handle)
        if other is None or self.variant == "target" or method != "blob_get" or rest[:1] != (1,) or not answer:
            return answer
        self.strike()
        if self.variant == "xattrs":
            return self.server.inner.blob_get(other, 1)
        assert isinstance(answer, bytes)
        return answer[: len(answer) // 2][::-1] + answer[len(answer) // 2 :]

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        return content

    def tags(self, handle: Handle, pos: int, content: bytearray) -> bytearray:
        return content

    def record(self, handle: Handle, record: bytes) -> bytes:
        return super().record(handle, record) if self.variant == "target" else record


@attack
class PowerCut(Attack):
    """A36."""

    ID = "A36"
    TEXT = "die after some changes, with any of the writes lost that nothing has made durable"

    def __init__(self, server: TamperStore, variant: str) -> None:
        super().__init__(server, variant)
        self.after = 20
        """Changes that are made before it happens."""
        self.lost = -1
        """A bit for each write that is not durable: whether it is lost."""
        self.dead = False
        self.unstable: list[tuple[Handle, int, bytes]] = []

    def before(self, method: str, args: Sequence[object]) -> None:
        if method not in {"write", "try_write", "write_from", "apply", "truncate", "put_intent"}:
            return
        if self.dead or self.after <= 0:
            self.die()
            raise OSError(errno.EIO, "the server is dead")
        self.after -= 1
        if method == "apply":
            steps = args[1]
            assert isinstance(steps, Sequence)
            if any(step.kind is StepKind.RECORD_PUT for step in steps):
                self.unstable.clear()  # what was written before is durable with it
        elif method not in {"truncate", "put_intent"}:
            handle, pos, piece = args[:3]
            assert isinstance(handle, bytes) and isinstance(pos, int) and isinstance(piece, Landing | IovIter)
            length = piece.count if isinstance(piece, IovIter) else piece.iter.count
            self.unstable.append((Handle(handle), pos, self.server.stream(Handle(handle))[pos : pos + length]))

    def die(self) -> None:
        """Lose writes, once."""
        if self.dead:
            return
        self.dead = True
        self.strike()
        inner = self.server.inner
        for n, (handle, pos, was) in reversed(list(enumerate(self.unstable))):
            if self.lost >> n & 1 and was:
                landing = inner.write_landing(handle, pos, len(was))
                copy_to_iter(was, landing.iter.copy())
                inner.write(handle, pos, landing, stable=True)
