"""Trio shell. Who writes to which blocks of an encrypted file: claims, and the recovery of what was left behind.

    claim      nobody else writes to these blocks until the commit    taken before a block is read for a partial write, or written
    intent     block, entry now, entry to be                          comes with a write over a block that holds data

Both are write intents on the server. A claim asserts the record, so what is read under it is current. Whoever is refused commits
what he has written, which gives his own claims back, waits, and asks again; so two writers cannot wait for each other. What a
client that is gone has left behind is settled first: each block it names is as it was, or as it was to be. Owns no memory.
"""

import errno
from typing import Final

import trio

from crypto.errors import CryptoError
from crypto.intent import open_intent
from netfs.fs.calls import ask
from netfs.fs.sealed_ageing import HOLD_S, Ageing
from netfs.fs.sealed_commit import SealedCommit
from netfs.fs.sealed_file import SealedFile
from netfs.fs.sealed_risk import Claim
from netfs.fs.waiting import finished
from transport.messages import IntentRow, RecordGet, RecordReply, Step, StepKind, Transact, TransactReply

__all__ = ["SealedClaims"]

PATIENCE_S: Final = 30
FIRST_DELAY_S: Final = 0.01
MOST_DELAY_S: Final = 0.5
ANSWER_S: Final = 60
FAR: Final = 1 << 62
AHEAD: Final = 64 << 20


class SealedClaims:
    """The claims of one client on one file."""

    def __init__(self, sealed: SealedFile, commits: SealedCommit, ageing: Ageing) -> None:
        self._sealed = sealed
        self._commits = commits
        self._ageing = ageing
        self._in_the_way: set[int] = set()
        self._in_vain: set[int] = set()
        self._vain_at = -1

    async def take(self, first: int, count: int) -> None:
        """Claim blocks, unless they are. Raises: OSError(EAGAIN) when others hold them for long, at once where it is known.

        Cancellation: may have happened.
        """
        sealed = self._sealed
        waited, delay = 0.0, FIRST_DELAY_S
        while not sealed.has_claim(first, first + count):
            file = sealed.file
            pos, length = first * file.block_size, count * file.block_size
            if first >= file.tree.blocks:
                length = FAR - pos  # who appends goes on appending
            elif any(claim.end == first for claim in sealed.claims):
                length = max(length, AHEAD)  # and who goes through the file in order goes on too
            try:
                await self._put(first, pos, length)
            except BlockingIOError:
                if await self._settle(pos, length):
                    continue
                # While nobody has committed since, who has a claim is likely the one who kept the last one to the end.
                patience = HOLD_S if self._vain_at == sealed.generation else PATIENCE_S
                if waited >= patience:
                    self._in_vain |= self._in_the_way
                    self._vain_at = sealed.generation
                if waited >= patience or (self._in_the_way and self._in_the_way <= self._in_vain):
                    # Those were waited for to the end before; another who writes there is waited for anew.
                    raise OSError(errno.EAGAIN, "another client is writing there, and does not commit") from None
                for claim in sealed.claims:
                    claim.again = False  # what is read under it is read once more: who waits keeps nobody else out
                await self._commits.relieve()
                pause = sealed.env.rng.uniform(delay / 2, delay)  # not in step with the other
                await trio.sleep(pause)
                waited, delay = waited + pause, min(2 * delay, MOST_DELAY_S)

    async def _put(self, first: int, pos: int, length: int) -> None:
        """Ask for a claim. Raises: OSError(EAGAIN) when the record has moved, or others have one there."""
        sealed = self._sealed
        # As of now: another record that is taken before the answer is here was put after the claim.
        since, size = sealed.others, sealed.file.block_size
        request = Transact([(sealed.handle, sealed.generation)], 0, [Step(StepKind.INTENT_PUT, sealed.handle, pos, length)])
        # A claim that was granted and not noted would keep others out for the length of the session.
        self._ageing.taken(self._commits)
        with trio.move_on_after(ANSWER_S, shield=True):
            sealed.put_begins()
            try:
                reply = await ask(sealed.transport, request, TransactReply)
            except BaseException as error:
                sealed.put_ends(error)
                raise
            sealed.put_ends()
            sealed.claims.append(Claim(first, (pos + length) // size, reply.intents[0], since))
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _settle(self, pos: int, length: int) -> bool:
        """Find out why a claim was refused. Returns: true when the reason is gone, false when another client is at work."""
        sealed = self._sealed
        self._in_the_way.clear()
        reply = await ask(sealed.transport, RecordGet(sealed.handle), RecordReply)
        self._in_vain &= {row.key for row in reply.intents}
        if sealed.unknown(reply.intents):
            await finished(sealed.refresh)  # an answer was lost, or was not the truth
        if reply.generation != sealed.generation or sealed.file.has_redo:
            await self._commits.catch_up()
            return True
        there = [row for row in reply.intents if row.pos < pos + length and pos < row.pos + row.length]
        self._in_the_way.update(row.key for row in there if row.live and not row.mine)
        if all(row.live for row in there):
            return False
        await self._recover([row for row in reply.intents if not row.live])
        return True

    async def settle_refused(self) -> None:
        """Settle what writes of this client that the server has refused left behind, so that others can write there.

        Raises: OSError, TransportError. Cancellation: may have happened.
        """
        sealed = self._sealed
        refused = [record for record, is_refused in sealed.telling.items() if is_refused]
        reply = await ask(sealed.transport, RecordGet(sealed.handle), RecordReply)
        sealed.find_refused(refused, reply.intents)
        mine = {row.key: row for row in reply.intents if row.mine}
        sealed.settled([key for key in sealed.unsettled if key not in mine])
        size = sealed.file.block_size
        places = {key: (mine[key].pos // size, (mine[key].pos + mine[key].length) // size) for key in sealed.unsettled}
        keys = [key for key, place in places.items() if not sealed.is_written(*place)]
        if not keys:
            return
        # Nobody here writes to the blocks while it is found out what they are.
        sealed.writing += [places[key] for key in keys]
        try:
            await _take_what_fits(sealed, self._commits, [mine[key] for key in keys], uncommitted=True)
            if await self._recover([mine[key] for key in keys]):
                sealed.settled(keys)
        finally:
            for key in keys:
                sealed.written(*places[key])

    async def _recover(self, left: list[IntentRow]) -> bool:
        """Settle what a client that is gone has left behind: of each block the entry that fits counts.

        It is a commit of its own, of the file as the server has it: what was written here and not committed has no part in it,
        and is laid over the new record as over any other client's. Returns: false when another client's commit came first.
        """
        mine = self._sealed
        sealed = SealedFile(mine.transport, mine.handle, mine.key, mine.env, mine.pool, mine.freshness)
        await finished(sealed.refresh)
        commits = self._commits.beside(sealed)
        await _take_what_fits(sealed, commits, left)
        stored = await commits.store_recovered([row.key for row in left])  # else another client was first
        await finished(mine.refresh)
        return stored


async def _take_what_fits(sealed: SealedFile, commits: SealedCommit, left: list[IntentRow], *, uncommitted: bool = False) -> None:
    """Put blocks under the entry that fits: as they were, or as an intent says that they were to be.

    uncommitted: only what was written here and no record tells of; of that too a refused write may have taken the place.
    """
    file = sealed.file
    for row in left:
        try:
            intent = open_intent(sealed.key, file.record.file_id, row.record)
        except CryptoError:
            continue  # whoever put that was no client of the volume
        for block, now, to_be in intent.rows:
            if block >= file.tree.blocks:
                continue
            await finished(lambda then, block=block: sealed.with_tags(block, 1, then))  # type: ignore[misc]
            if uncommitted and len(file.possible_entries(block)) == 1:
                continue
            if file.entries(block, 1) == now and not await commits.fits(block):
                file.wrote(block, to_be)
                if not await commits.fits(block):
                    file.wrote(block, now)  # neither: damaged, and told so when it is read
