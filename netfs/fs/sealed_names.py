"""Trio shell. The names of an encrypted volume: what the server shows is opened, and every change is one transaction.

    create     assert the directory's record ─▶ CREATE, record and certificate of the new object, record of the directory
    remove     look up ─▶ assert ─▶ REMOVE, record of the directory
    rename     look up both ─▶ assert both directories ─▶ MOVE, new certificate, records of both

If another client was first, the directory's record is read again and the change is made on top of it: what an entry adds to the
sum over a listing does not depend on the others. Directories that were looked up are remembered with their ids, so that a server
cannot show one in the place of another. Owns no memory.
"""

import dataclasses
import errno
import os
from collections import OrderedDict
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any, Final

from crypto.aead import KEY_SIZE, XAES_NONCE_SIZE
from crypto.errors import CryptoError, IntegrityError, Malformed
from crypto.file import new_record
from crypto.keys import FILE_ID_SIZE, VolumeKey
from crypto.names import Entry, Names, check_listing, with_entry, without_entry
from crypto.record import INLINE_MAX, Folder, Kind, Record, open_record, seal_record
from crypto.volume import HEADER_NAME
from netfs.fs.calls import ask
from netfs.fs.freshness import Freshness
from netfs.fs.sealed_folder import Found, SealedFolder, attr_of
from transport.base import Transport
from transport.env import Env
from transport.messages import (
    NO_HANDLE,
    Attr,
    DirEntry,
    EntryReply,
    FileType,
    Handle,
    Lookup,
    Readdir,
    ReaddirReply,
    RecordGet,
    RecordReply,
    Step,
    StepKind,
    Transact,
    TransactReply,
)  # fmt: skip

__all__ = ["CONFLICTS", "SealedNames"]

CONFLICTS: Final = 32
"""How often a change is tried while other clients change the same directory."""
FOLDERS_KEPT: Final = 4096
SLACK: Final = 4096
"""Entries that a listing may have beyond those known, for what others add meanwhile."""
NO_MODE: Final = 0o700


class SealedNames:
    """The directories of one volume. writer: names this client in the records it seals."""

    def __init__(self, transport: Transport, key: VolumeKey, env: Env, freshness: Freshness, log2bs: int, writer: bytes) -> None:
        self._transport = transport
        self._key = key
        self._env = env
        self._freshness = freshness
        self._log2bs = log2bs
        self._writer = writer
        self._folders: OrderedDict[Handle, SealedFolder] = OrderedDict()

    # ---- directories

    async def root(self, handle: Handle) -> None:
        """Take a directory for the volume's top, and make an empty one into that.

        Raises: EBADMSG when it has entries and no record, ESTALE when this client has seen it with one.
        """
        while handle not in self._folders:
            asked = self._freshness.clock
            reply = await ask(self._transport, RecordGet(handle), RecordReply)
            root_id = self._key.root_id
            if reply.record:
                record = open_record(self._key, reply.record, root_id)
                if record.folder is None or not record.folder.is_root:
                    raise IntegrityError("not the top directory of a volume", file_id=record.file_id)
                self._take(handle, record.file_id, reply.record, reply.generation, asked)
                continue
            if root_id is not None:
                self._freshness.observe(root_id, 0, b"", asked)
            listed = await ask(self._transport, Readdir(handle, 0, 4), ReaddirReply)
            if any(not hides(entry.name) for entry in listed.entries):
                raise Malformed("not an encrypted folder: it has entries, and no record")
            record = self._new_record(Kind.DIRECTORY, root_id or self._env.nonces(FILE_ID_SIZE), NO_MODE, is_root=True)
            sealed = seal_record(self._key, record, self._env.nonces(XAES_NONCE_SIZE))
            try:
                await self._put(handle, reply.generation, [Step(StepKind.RECORD_PUT, handle, record=sealed)])
            except BlockingIOError:
                continue
            self._freshness.committed(record.file_id, record.generation, sealed)

    async def lookup(self, parent: Handle, name: str) -> Found:
        """Find a name and verify all that is said of it. Raises: FileNotFoundError on the server's word; EBADMSG."""
        folder = self._folder(parent)
        sealed = folder.names.seal(name)
        while True:
            asked = self._freshness.clock
            try:
                reply = await ask(self._transport, Lookup(parent, sealed.shown), EntryReply)
            except FileNotFoundError:
                await self._unless_listed(folder, sealed.shown, listed=True)
                raise
            await self._unless_listed(folder, sealed.shown, listed=False)
            entry = folder.names.entry(sealed.shown, reply.certificate)
            if (record := self._verified(entry, reply.record, reply.attr, asked)) is not None:
                break
        if record.kind is Kind.DIRECTORY:
            self._remember(reply.handle, record, reply.record, reply.generation)
        reply.attr = attr_of(reply.attr, record)
        return Found(entry, record, reply)

    async def _unless_listed(self, folder: SealedFolder, shown: str, *, listed: bool) -> None:
        """Refuse an answer that a whole listing contradicts, if the directory is still as it was then. Raises: EBADMSG."""
        if folder.knows_of(shown) is listed:
            await self._refresh(folder)  # somebody may have changed it: then its record has moved
            if folder.knows_of(shown) is listed:
                raise IntegrityError("a name is not as the listing has it", file_id=folder.record.file_id)

    async def listing(self, handle: Handle) -> list[tuple[DirEntry, Entry, Record]]:
        """Return all entries of a directory; the listing is complete or refused. Raises: EBADMSG, EAGAIN."""
        folder = self._folder(handle)
        before = -1
        for _ in range(CONFLICTS):
            await self._refresh(folder)
            asked = self._freshness.clock
            names, state, sealed = folder.names, folder.folder, folder.sealed
            try:
                listed = [
                    (row, names.entry(row.name, row.certificate)) for row in await self._rows(handle) if not hides(row.name)
                ]
                check_listing(names, state, [entry for _, entry in listed])
            except IntegrityError:
                # Perhaps somebody is changing it: then its record moves.
                if folder.generation == before:
                    raise
                before = folder.generation
                continue
            rows = []
            for row, entry in listed:
                record = self._verified(entry, row.record or b"", row.attr, asked)
                if record is None:  # overtaken; what was shown was true a moment ago
                    record = open_record(self._key, row.record or b"", entry.file_id)
                row.attr = attr_of(row.attr, record)
                rows.append((row, entry, record))
            folder.was_listed(sealed, [entry.name.shown for _, entry in listed])
            return rows
        raise OSError(errno.EAGAIN, "other clients are changing the directory all the time")

    async def examine(self, handle: Handle) -> tuple[list[DirEntry], list[tuple[str, CryptoError]]]:
        """Return the entries of a directory that verify, each for itself, and what is wrong: by name, empty for the listing."""
        folder = self._folder(handle)
        await self._refresh(folder)
        asked = self._freshness.clock
        good: list[DirEntry] = []
        bad: list[tuple[str, CryptoError]] = []
        entries: list[Entry] = []
        for row in await self._rows(handle):
            if hides(row.name):
                continue
            try:
                entries.append(entry := folder.names.entry(row.name, row.certificate))
                row.name = entry.name.plain
                record = self._verified(entry, row.record or b"", row.attr, asked)
                if record is not None:
                    row.attr = attr_of(row.attr, record)
                good.append(row)
            except CryptoError as error:
                bad.append((row.name, error))
        try:
            check_listing(folder.names, folder.folder, entries)
        except IntegrityError as error:
            bad.append(("", error))
        return good, bad

    async def _rows(self, handle: Handle) -> list[DirEntry]:
        rows: list[DirEntry] = []
        cookie, eof = 0, False
        while not eof:
            page = await ask(self._transport, Readdir(handle, cookie), ReaddirReply)
            for row in page.entries:
                if row.cookie == cookie or len(rows) > self._folder(handle).folder.count + SLACK:
                    raise IntegrityError("a listing that does not end", file_id=self._folder(handle).record.file_id)
                cookie = row.cookie
                rows.append(row)
            eof = page.eof or not page.entries
        return rows

    # ---- changes

    async def create(self, parent: Handle, name: str, kind: Kind, mode: int, target: bytes = b"") -> EntryReply:
        """Make a file, directory or link. Raises: FileExistsError."""
        if len(target) > INLINE_MAX:
            raise OSError(errno.ENAMETOOLONG, f"a link's target has at most {INLINE_MAX} bytes here")
        folder = self._folder(parent)
        nonces = self._env.nonces
        record = self._new_record(kind, nonces(FILE_ID_SIZE), mode, target)
        sealed = seal_record(self._key, record, nonces(XAES_NONCE_SIZE))
        shown = folder.names.seal(name)
        async with folder.lock:
            for _ in range(CONFLICTS):
                entry = Entry(shown, record.file_id, kind, folder.folder.next_entry)
                steps = [
                    Step(
                        StepKind.CREATE,
                        parent,
                        mode & 0o777 | 0o600,
                        FileType.DIRECTORY if kind is Kind.DIRECTORY else FileType.FILE,
                        name=shown.shown,
                    ),
                    Step(StepKind.RECORD_PUT, NO_HANDLE, record=sealed),
                    Step(StepKind.BLOB_PUT, NO_HANDLE, 0, record=folder.names.certify(entry)),
                ]
                done = await self._change([(folder, with_entry(folder.names, folder.folder, entry))], steps)
                if done is not None:
                    break
            else:
                raise busy()
        if len(done.made) != 1:
            raise OSError(errno.EBADMSG, "the server says that it has made what was asked for, and does not show it")
        (reply,) = done.made
        self._freshness.committed(record.file_id, record.generation, sealed)
        reply.record, reply.generation = sealed, 1
        reply.attr = attr_of(reply.attr, record)
        if kind is Kind.DIRECTORY:
            self._remember(reply.handle, record, sealed, 1)
        return reply

    async def remove(self, parent: Handle, name: str, *, directory: bool) -> Handle:
        """Remove a name, also of what is damaged. Returns: whose it was. Raises: EISDIR, ENOTDIR, ENOTEMPTY, ENOENT."""
        folder = self._folder(parent)
        async with folder.lock:
            for _ in range(CONFLICTS):
                shown = folder.names.seal(name).shown
                reply = await ask(self._transport, Lookup(parent, shown), EntryReply)
                entry = folder.names.entry(shown, reply.certificate)
                if (entry.kind is Kind.DIRECTORY) != directory:
                    raise failed(errno.ENOTDIR if directory else errno.EISDIR)
                steps = [Step(StepKind.REMOVE, parent, name=shown, other=reply.handle)]
                done = None  # it is another object by now, or gone, or was made after what is known of the directory
                try:
                    done = await self._change([(folder, without_entry(folder.names, folder.folder, entry))], steps)
                except OSError as error:
                    if error.errno not in {errno.ESTALE, errno.ENOENT}:
                        raise
                except IntegrityError:
                    if not await self._overtaken(folder):
                        raise
                if done is not None:
                    self._folders.pop(reply.handle, None)
                    self._freshness.marks.removed(entry.file_id)
                    return reply.handle
                await self._refresh(folder)
        raise busy()

    async def rename(
        self, parent: Handle, name: str, new_parent: Handle, new_name: str, *, replace: bool = True
    ) -> Handle | None:
        """Rename as POSIX does. Returns: whose name was replaced. Raises: FileExistsError unless `replace`."""
        source, target = self._folder(parent), self._folder(new_parent)
        async with AsyncExitStack() as stack:
            for folder in sorted({source.handle: source, target.handle: target}.values(), key=lambda one: one.handle):
                await stack.enter_async_context(folder.lock)
            for _ in range(CONFLICTS):
                moved = await self.lookup(parent, name)
                replaced = await self._maybe(new_parent, new_name)
                if replaced is not None and not replace:
                    raise failed(errno.EEXIST)
                if (parent, name) == (new_parent, new_name):
                    return None
                # No file has two names: another client renamed it between the two questions.
                twice = replaced is not None and replaced.reply.handle == moved.reply.handle
                try:
                    done = not twice and await self._move(source, moved, target, new_name, replaced)
                except IntegrityError:  # perhaps of one that was made after what is known of the directories
                    if not await self._overtaken(source, target):
                        raise
                    continue
                if done and replaced is None:
                    return None
                if done and replaced is not None:
                    self._freshness.marks.removed(replaced.entry.file_id)
                    self._folders.pop(replaced.reply.handle, None)
                    return replaced.reply.handle
                await self._overtaken(source, target)
        raise busy()

    async def change(self, handle: Handle, blob: bytes | None = None, **values: Any) -> None:
        """Change fields of a directory's record, and with them its blob 1."""
        folder = self._folder(handle)
        steps = [] if blob is None else [Step(StepKind.BLOB_PUT, handle, 1, record=blob)]
        async with folder.lock:
            for _ in range(CONFLICTS):
                if await self._change([(folder, folder.folder)], steps, values) is not None:
                    return
        raise busy()

    async def change_link(self, entry: EntryReply, **values: Any) -> None:
        """Change fields of a link's record, as it was looked up or is by now."""
        sealed, generation = entry.record, entry.generation
        file_id = open_record(self._key, sealed).file_id
        for _ in range(CONFLICTS):
            record = self._next(open_record(self._key, sealed, file_id), sealed, **values)
            new = seal_record(self._key, record, self._env.nonces(XAES_NONCE_SIZE))
            try:
                await self._put(entry.handle, generation, [Step(StepKind.RECORD_PUT, entry.handle, record=new)])
            except BlockingIOError:
                asked = self._freshness.clock
                reply = await ask(self._transport, RecordGet(entry.handle), RecordReply)
                now = open_record(self._key, reply.record, file_id)
                if self._freshness.observe(file_id, now.generation, reply.record, asked):
                    sealed, generation = reply.record, reply.generation
                continue
            self._freshness.committed(file_id, record.generation, new)
            return
        raise busy()

    def record(self, handle: Handle) -> Record:
        """Return the record of a directory as it is known here."""
        return self._folder(handle).record

    async def _move(
        self, source: SealedFolder, moved: Found, target: SealedFolder, new_name: str, replaced: Found | None
    ) -> bool:
        if replaced is not None:
            was_dir, is_dir = replaced.entry.kind is Kind.DIRECTORY, moved.entry.kind is Kind.DIRECTORY
            if was_dir != is_dir:
                raise failed(errno.EISDIR if was_dir else errno.ENOTDIR)
            if was_dir and replaced.record.folder is not None and replaced.record.folder.count:
                raise failed(errno.ENOTEMPTY)
        shown = target.names.seal(new_name)
        after_source = without_entry(source.names, source.folder, moved.entry)
        after_target = after_source if target is source else target.folder
        if replaced is not None:
            after_target = without_entry(target.names, after_target, replaced.entry)
        entry = Entry(shown, moved.entry.file_id, moved.entry.kind, after_target.next_entry)
        after_target = with_entry(target.names, after_target, entry)
        steps = [
            Step(StepKind.MOVE, source.handle, name=moved.entry.name.shown, other=target.handle, new_name=shown.shown),
            Step(StepKind.BLOB_PUT, moved.reply.handle, 0, record=target.names.certify(entry)),
        ]
        changes = [(target, after_target)] if target is source else [(source, after_source), (target, after_target)]
        try:
            return await self._change(changes, steps) is not None
        except OSError as error:
            if error.errno not in {errno.ESTALE, errno.ENOENT}:
                raise
            return False

    async def _maybe(self, parent: Handle, name: str) -> Found | None:
        try:
            return await self.lookup(parent, name)
        except FileNotFoundError:
            return None

    async def _change(
        self, changes: list[tuple[SealedFolder, Folder]], steps: list[Step], values: dict[str, Any] | None = None
    ) -> TransactReply | None:
        """Change directories in one transaction, and other fields of their records if `values` are given.

        Returns: None when another client changed one of them first; then what is known of them is fresh.
        """
        values = {"mtime_ns": self._env.wall_ns()} if values is None else values
        sealed: list[tuple[SealedFolder, Record, bytes]] = []
        for folder, after in changes:
            record = self._next(folder.record, folder.sealed, folder=after, **values)
            sealed.append((folder, record, seal_record(self._key, record, self._env.nonces(XAES_NONCE_SIZE))))
        puts = [Step(StepKind.RECORD_PUT, folder.handle, record=new) for folder, _, new in sealed]
        request = Transact([(folder.handle, folder.generation) for folder, _ in changes], 0, [*steps, *puts])
        try:
            done = await ask(self._transport, request, TransactReply)
        except BlockingIOError:
            for folder, _ in changes:
                await self._refresh(folder)
            return None
        for (folder, record, new), generation in zip(sealed, done.generations, strict=True):
            folder.record, folder.sealed, folder.generation = record, new, generation
            self._freshness.committed(record.file_id, record.generation, new)
        return done

    async def _put(self, handle: Handle, generation: int, steps: list[Step]) -> TransactReply:
        return await ask(self._transport, Transact([(handle, generation)], 0, steps), TransactReply)

    # ---- inside

    def _new_record(self, kind: Kind, file_id: bytes, mode: int, target: bytes = b"", *, is_root: bool = False) -> Record:
        nonces, now = self._env.nonces, self._env.wall_ns()
        folder = Folder(nonces(16), self._key.epoch, is_root=is_root) if kind is Kind.DIRECTORY else None
        return new_record(
            file_id,
            nonces(KEY_SIZE),
            log2bs=self._log2bs,
            suite=self._key.suites[0],
            kind=kind,
            mode=mode & 0o7777,
            mtime_ns=now,
            ctime_ns=now,
            writer=self._writer,
            folder=folder,
            inline=target,
            size=len(target),
            epoch=self._key.epoch,
        )

    def _next(self, record: Record, sealed: bytes, **values: Any) -> Record:
        """Return the record that follows one, with other values."""
        return dataclasses.replace(
            record,
            generation=record.generation + 1,
            ctime_ns=self._env.wall_ns(),
            writer=self._writer,
            before=sha256(sealed).digest(),
            epoch=self._key.epoch,
            **values,
        )

    def _verified(self, entry: Entry, sealed: bytes, attr: Attr, asked: int) -> Record | None:
        """Verify an object against its entry. Returns: None when a newer state of it has been seen meanwhile."""
        record = open_record(self._key, sealed, entry.file_id)
        is_dir = attr.type is FileType.DIRECTORY
        if record.kind is not entry.kind or is_dir != (entry.kind is Kind.DIRECTORY):
            raise IntegrityError("an object is of another kind than its entry says", file_id=entry.file_id)
        return record if self._freshness.observe(record.file_id, record.generation, sealed, asked) else None

    def _folder(self, handle: Handle) -> SealedFolder:
        folder = self._folders.get(handle)
        if folder is None:
            raise failed(errno.ESTALE)  # forgotten, or never looked up; a walk finds it again
        self._folders.move_to_end(handle)
        return folder

    def _remember(self, handle: Handle, record: Record, sealed: bytes, generation: int) -> None:
        known = self._folders.get(handle)
        if known is None:
            assert record.folder is not None
            known = SealedFolder(handle, record, sealed, generation, Names(self._key, record.folder, record.file_id))
            self._folders[handle] = known
            if len(self._folders) > FOLDERS_KEPT:
                oldest = next(iter(self._folders))
                if not self._folders[oldest].lock.locked() and not self._folders[oldest].folder.is_root:
                    del self._folders[oldest]
                else:
                    self._folders.move_to_end(oldest)
        elif record.file_id != known.record.file_id:
            raise IntegrityError("two directories with one handle", file_id=record.file_id)
        elif record.generation > known.record.generation:
            known.record, known.sealed, known.generation = record, sealed, generation

    def _take(self, handle: Handle, file_id: bytes, sealed: bytes, generation: int, asked: int) -> None:
        record = open_record(self._key, sealed, file_id)
        if record.folder is None:
            raise IntegrityError("not a directory's record", file_id=file_id)
        if self._freshness.observe(file_id, record.generation, sealed, asked):
            self._remember(handle, record, sealed, generation)

    async def _overtaken(self, *folders: SealedFolder) -> bool:
        """Read the records of directories again. Returns: whether another client has changed one of them."""
        before = [folder.generation for folder in folders]
        for folder in {folder.handle: folder for folder in folders}.values():
            await self._refresh(folder)
        return [folder.generation for folder in folders] != before

    async def _refresh(self, folder: SealedFolder) -> None:
        """Read the record of a directory again."""
        asked = self._freshness.clock
        reply = await ask(self._transport, RecordGet(folder.handle), RecordReply)
        if not reply.record:
            raise IntegrityError("a directory has lost its record", file_id=folder.record.file_id)
        self._take(folder.handle, folder.record.file_id, reply.record, reply.generation, asked)


def hides(name: str) -> bool:
    """Say whether a name is that of the volume's header, or of one being written."""
    return name.startswith(HEADER_NAME)


def failed(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def busy() -> OSError:
    return OSError(errno.EAGAIN, "other clients are faster at changing the directory")
