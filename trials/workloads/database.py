"""Trio shell. Scenario `database`: a journal and pages, as a database writes them, and readers of both.

A transaction is appended to the journal and made safe, then its pages are written in place; a checkpoint makes the pages safe and
begins the journal anew. So no page may hold a transaction that the journal, or a checkpoint, has not; and what was
committed is never lost. Each page names its write. Owns no memory.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from netfs.fs.client import Client
from trials.cells import CELL
from trials.checkers.sessions import check_sessions
from trials.history import Failure, History, Op
from trials.workloads.actor import Actor, Fd
from trials.workloads.base import Do, Scenario

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["Database"]

PAGE: Final = 4096
PAGES: Final = 16
RECORD: Final = 512
SLOTS: Final = 32
"""Records the journal has room for."""


class Database(Scenario):
    """See the module. Each client keeps a database; all read those of others."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[int, Op] = {}
        """Of each write of a page, the write of its record."""

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Do]:
        """Draw transactions on one to three pages, checkpoints, and reads of anybody's pages."""
        self.case = case
        return [
            Do(
                client, rng.choices(("commit", "checkpoint", "look"), (60, 10, 30))[0], rng.randrange(2),
                rng.randrange(PAGES), rng.randint(1, 3), rng.randrange(case.clients), rng.getrandbits(32),
            )
            for _ in range(case.operations)
            for client in range(case.clients)
        ]  # fmt: skip

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make the files, full."""
        for index in range(len(clients)):
            actor = self.actor(clients, index, history)
            for path, length in ((f"/pages-{actor.name}", PAGE * PAGES), (f"/journal-{actor.name}", RECORD * SLOTS)):
                fd = await actor.open(path, "w")
                assert fd is not None
                await fd.write(0, length, random.Random(1))
                await fd.close()

    async def work(self, actor: Actor, operations: list[Do]) -> None:
        """Keep the database of one client, until an error: then it is opened anew."""
        files: tuple[Fd, Fd] | None = None
        slot = 0
        for one in operations:
            if one.kind == "look":
                await self._look(actor, f"client{one.to}", one)
                continue
            files = files or await self._open(actor)
            if files is None:
                continue
            journal, pages = files
            if one.kind == "checkpoint" or slot == SLOTS:
                fine = (await pages.fsync()).ok
                slot = 0 if fine else slot
            else:
                fine = await self._commit(journal, pages, slot, one)
                slot += 1
            if not fine:
                await journal.close()
                await pages.close()
                files = None
        for fd in files or ():
            await fd.close()

    async def _open(self, actor: Actor) -> tuple[Fd, Fd] | None:
        journal = await actor.open(f"/journal-{actor.name}", "r+")
        if journal is None:
            return None
        pages = await actor.open(f"/pages-{actor.name}", "r+")
        if pages is None:
            await journal.close()
            return None
        return journal, pages

    async def _commit(self, journal: Fd, pages: Fd, slot: int, one: Do) -> bool:
        """Do one transaction. Returns: whether nothing failed."""
        record = await journal.write(slot * RECORD, RECORD, one.rng)
        if not record.ok or not (await journal.fsync()).ok:
            return False
        for at in range(one.length):
            page = (one.pos + at * 5) % PAGES
            write = await pages.write(page * PAGE, PAGE, one.rng)
            self.logged[write.id] = record
            if not write.ok:
                return False
        return True

    async def _look(self, actor: Actor, of: str, one: Do) -> None:
        """Read pages of somebody's database, by a new descriptor."""
        fd = await actor.open(f"/pages-{of}", "r", direct=bool(one.fd))
        if fd is None:
            return
        await fd.read(one.pos * PAGE, min(one.length, PAGES - one.pos) * PAGE, one.rng)
        await fd.close()

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Read all pages and journals, by another client than the one that wrote them."""
        for index in range(len(clients)):
            auditor = self.auditor(clients, history, index - 1)
            for path, length in ((f"/pages-client{index}", PAGE * PAGES), (f"/journal-client{index}", RECORD * SLOTS)):
                fd = await auditor.open(path, "r")
                if fd is not None:
                    await fd.read(0, length, random.Random(1))
                    await fd.close()

    def judge(self, history: History) -> Iterator[Failure]:
        """Close-to-open and durability of both files; no page without its record."""
        for path in (path for path in history.files() if path.startswith(("/pages-", "/journal-"))):
            yield from check_sessions(history, path)
        yield from self._ahead(history)

    def _ahead(self, history: History) -> Iterator[Failure]:
        """Of each page that the audit found: its record is in the journal, or one that took its place later."""
        found = {op.file: op for op in history.of("read") if op.client == "audit" and op.ok}
        for path, read in found.items():
            journal = found.get(path.replace("pages", "journal"))
            if journal is None or journal is read:
                continue
            there = {run.first * CELL // RECORD + at: run.op for run in journal.seen for at in range(run.count * CELL // RECORD)}
            for run in read.seen:
                record = self.logged.get(run.op)
                if record is not None and there.get(record.pos // RECORD, record.id) < record.id:
                    yield Failure(
                        "U1 page before its record",
                        f"{read} found {history.op(run.op)}, but {journal} has #{there[record.pos // RECORD]} for {record}",
                    )
