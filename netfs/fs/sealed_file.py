"""Sans-IO. SealedFile: an encrypted file in use; its tags and record on the server, and who may change what meanwhile.

What takes several calls to the server goes on by callbacks, so that a subrequest needs no task: `then(error)` is called once,
perhaps at once. Whoever changes record or tag tree as a whole (commit, refresh, resize) has the turn; reads and writes go on
beside it and notice. Blocks being written here are not sent a second time, and not read, until the server has answered. Owns no
memory but leases for tag pages.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from crypto.errors import CryptoError, IntegrityError, Malformed
from crypto.file import EncryptedFile, Fetch
from crypto.intent import Intent, alternatives, open_intent
from crypto.keys import VolumeKey
from crypto.layout import ENTRY_SIZE, FAN_OUT, PAGE_SIZE
from crypto.record import open_record
from iov.iov_iter import Direction, IovIter
from iov.pool import BufferPool, Lease
from netfs.fs.calls import body_of
from netfs.fs.freshness import Freshness
from netfs.fs.sealed_risk import Claim, Risk
from transport.base import Outcome, Reply, Transport
from transport.env import Env
from transport.messages import AuxRead, Commit, Handle, IntentRow, ReadReply, RecordGet, RecordReply, WriteReply

__all__ = ["SealedFile", "Then"]

Then = Callable[[Exception | None], None]


def nothing() -> None:
    """Tell nobody."""


REFRESHES = 4
"""How often a record is read again, and has not moved, before what does not fit to it is taken for damage."""
AHEAD_PAGES = 16
"""Tag pages that come along when a reader goes through the file in order."""


class SealedFile:
    """One encrypted file of a client.

    file: there once `loaded`. generation: the server's number of the record. verifier: of the boot that took the last write.
    writing: (first, end) of blocks on their way; carried: of those that a transaction under way writes, or cuts away; held: of
    requests under way, by their number, whose claims outlast a commit. others: grows when another client's record is taken;
    on_others: told of it then; told: grows with it, and with what the server tells of intents. own_end: where what was written
    here and not committed ends, at most. doubtful: keys of claims and intents that a start of the server may have taken, and
    whether nothing is on its way under them; orphans: of those it has still, which end with the next commit. unsettled: keys of
    intents whose write the server has refused, wholly or in part, so that it is to be found out what their blocks are. telling:
    the intents that travel with writes under way, or with such as nobody has answered; true: it was refused, see `unsettled`.
    unsure: one may be there that nobody here knows of, as no answer said so. risk: what a start of the server may have taken
    of what is not committed.
    """

    __slots__ = (
        "_blocked",
        "_busy",
        "_next_leaf",
        "_puts_begun",
        "_puts_open",
        "_turns",
        "carried",
        "claims",
        "doubtful",
        "env",
        "file",
        "freshness",
        "generation",
        "handle",
        "held",
        "intents",
        "key",
        "loaded",
        "named",
        "on_others",
        "orphans",
        "others",
        "own_end",
        "pool",
        "risk",
        "telling",
        "told",
        "transport",
        "unsettled",
        "unsure",
        "verifier",
        "writing",
    )

    file: EncryptedFile

    def __init__(
        self, transport: Transport, handle: Handle, key: VolumeKey, env: Env, pool: BufferPool, freshness: Freshness
    ) -> None:  # fmt: skip
        self.transport = transport
        self.freshness = freshness
        self.handle = handle
        self.key = key
        self.env = env
        self.pool = pool
        self.generation = 0
        self.loaded = False
        self.verifier = 0
        self.writing: list[tuple[int, int]] = []
        self.held: dict[int, tuple[int, int]] = {}
        self.claims: list[Claim] = []
        self.intents: dict[int, bool] = {}
        self.doubtful: dict[int, bool] = {}
        self.orphans: list[int] = []
        self.unsettled: list[int] = []
        self.telling: dict[bytes, bool] = {}
        self.own_end = self.told = 0
        self.carried: list[tuple[int, int]] = []
        self.others = 0
        self.on_others: Callable[[], None] = nothing
        self.named: dict[int, list[tuple[bytes, bytes]]] = {}
        self._blocked: list[Callable[[], None]] = []
        self._busy = False
        self._turns: deque[Callable[[], None]] = deque()
        self._next_leaf = 0
        self._puts_begun = self._puts_open = 0
        self.unsure = False
        self.risk = Risk()

    # ---- who may change what

    def has_claim(self, first: int, end: int) -> bool:
        """Say whether all these blocks are claimed by this client."""
        return self.claimed_since(first, end) >= 0

    def claimed_since(self, first: int, end: int) -> int:
        """Return what `others` was when the last of the claims on these blocks was taken, -1 where one is missing."""
        at, since = first, 0
        for claim in sorted(self.claims, key=lambda claim: claim.first):
            if claim.first <= at < claim.end:
                at, since = claim.end, max(since, claim.since)
        return since if at >= end else -1

    def key_of_claim(self, block: int) -> int:
        """Return the key of a claim on a block, 0 for none."""
        return next((claim.key for claim in self.claims if claim.first <= block < claim.end), 0)

    def is_outdated(self, first: int, end: int, basis: int) -> bool:
        """Say whether another client may have changed these blocks since `others` was `basis`."""
        return basis < self.others and basis < (self.claimed_since(first, end) if self.has_claim(first, end) else self.others)

    def may_drop(self, claim: "Claim") -> bool:
        """Say whether a claim can end with a commit: nothing of it is under way, nor about to be sent once more."""
        under_way = (*self.writing, *self.held.values())
        return not (claim.again or any(start < claim.end and claim.first < stop for start, stop in under_way))

    def ours(self) -> int:
        """Return where what was written here and not committed ends, 0 for nothing."""
        return self.own_end if self.file.is_uncommitted else 0

    def put_begins(self) -> None:
        """A claim is asked for."""
        self._puts_begun += 1
        self._puts_open += 1

    def put_ends(self, error: BaseException | None = None) -> None:
        """The answer is there, or will not be waited for."""
        self._puts_open -= 1
        self.unsure = self.unsure or not isinstance(error, BlockingIOError | None)

    def unknown(self, rows: Iterable[IntentRow]) -> list[int]:
        """Return which claims and intents of this client, as the server has them, it does not know of: nothing is under them."""
        known = {claim.key for claim in self.claims} | {*self.intents, *self.doubtful, *self.orphans, *self.unsettled}
        mine = [row.key for row in rows if row.mine and row.record not in self.telling]
        return [] if self._puts_open else [key for key in mine if key not in known]

    def lost_claims(self) -> None:
        """The server has restarted: it knows of none, unless some were taken since."""
        keys = (*self.orphans, *(claim.key for claim in self.claims))
        self.doubtful |= {**dict.fromkeys(keys, True), **self.intents}
        self.claims.clear()
        self.intents.clear()
        self.orphans.clear()

    def lost_claim(self, first: int, end: int) -> None:
        """The server refused a write: it may not have the claims on these blocks."""
        here = [claim for claim in self.claims if claim.first < end and first < claim.end]
        self.risk.unguarded(here, self._written_blocks)
        self.claims = [claim for claim in self.claims if claim not in here]
        self.doubtful |= {claim.key: True for claim in here}

    @property
    def has_refused(self) -> bool:
        """Say whether it is to be found out what some blocks are."""
        return bool(self.unsettled) or any(self.telling.values())

    def find_refused(self, refused: list[bytes], rows: Iterable[IntentRow]) -> None:
        """See which intents that came with refused writes the server has. rows: asked for when they had been refused."""
        self.unsettled += [row.key for row in rows if row.mine and row.record in refused]
        for record in refused:
            self.telling.pop(record, None)

    def _judge(self, keys: list[int], mine: set[int]) -> None:
        """Find out what the server still has of what was in doubt when its answer was asked for."""
        for key in keys:
            over = self.doubtful.get(key)
            if over is not None and (over or key not in mine):
                del self.doubtful[key]
                if key in mine:
                    self.orphans.append(key)

    def _written_blocks(self) -> list[int]:
        return self.file.written_blocks() if self.loaded else []

    def started_again(self, boot: int) -> None:
        """The server was, if this boot is another than that of the last write."""
        if boot != self.verifier:
            self.risk.started_again(boot, self._written_blocks)

    def other_entries(self, block: int, entry: bytes | bytearray) -> list[bytes]:
        """Return what a block may be under instead of `entry`, as a write of it has begun and not been committed."""
        return [to_be for now, to_be in self.named.get(block, ()) if now == entry]

    def lost_entries(self, block: int) -> list[bytes]:
        """Return what a block may be under where the server, when it was started again, has lost what was written here."""
        if not self.risk.covers(block, self.others):
            return []
        known = self.file.possible_entries(block)
        return [*known, *(to_be for entry in known for to_be in self.other_entries(block, entry))]

    def ask_boot(self, block: int, then: Callable[[bool], None]) -> None:
        """Find out whether the server was started again since a block was written, so that it may have lost it, and tell."""

        def told(outcome: Outcome) -> None:
            body = body_of(outcome, WriteReply)
            if isinstance(body, WriteReply):
                self.started_again(body.verifier)
            then(self.risk.covers(block, self.others))

        self.transport.submit(Commit(self.handle), told)

    def in_doubt(self, first: int, entries: bytes | bytearray) -> bool:
        """Say whether one of the blocks from `first` on may be under something else than its entry."""
        return bool(self.named) and any(
            self.other_entries(first + at // ENTRY_SIZE, entries[at : at + ENTRY_SIZE])
            for at in range(0, len(entries), ENTRY_SIZE)
        )

    def _note_intents(self, rows: list[IntentRow]) -> None:
        """Take what was told of writes that have begun."""
        file_id = self.file.record.file_id
        found: list[Intent] = []
        for row in rows:
            if row.record:
                with contextlib.suppress(CryptoError):  # whoever put that was no client of the volume
                    found.append(open_intent(self.key, file_id, row.record))
        named = alternatives(found, self.file.record.generation)
        if named != self.named:
            self.named = named
            self.told += 1

    def take_turn(self, run: Callable[[], None]) -> None:
        """Call `run`, at once or when those before it have given their turn back."""
        if self._busy:
            self._turns.append(run)
        else:
            self._busy = True
            run()

    def give_turn(self) -> None:
        """End a turn."""
        if self._turns:
            self._turns.popleft()()
        else:
            self._busy = False

    def forgo_turn(self, run: Callable[[], None]) -> bool:
        """Leave the queue for the turn. Returns: false when the turn has come already."""
        if run in self._turns:
            self._turns.remove(run)
            return True
        return False

    def is_written(self, first: int, end: int) -> bool:
        """Say whether one of these blocks is on its way to the server."""
        return any(start < end and first < stop for start, stop in (*self.writing, *self.carried))

    def block(self, start: Callable[[], None]) -> None:
        """Call `start` when some of the blocks on their way have arrived."""
        self._blocked.append(start)

    def written(self, first: int, end: int) -> None:
        """Blocks are no longer on their way."""
        self.writing.remove((first, end))
        self.go_on()

    def go_on(self) -> None:
        """Let those look again who wait for blocks on their way."""
        blocked, self._blocked = self._blocked, []
        for start in blocked:
            start()

    def settled(self, keys: list[int]) -> None:
        """Writes that were refused are found out about, and their intents gone."""
        for key in keys:
            self.intents.pop(key, None)
            self.doubtful.pop(key, None)
        self.unsettled = [key for key in self.unsettled if key not in keys]

    # ---- tags

    def with_tags(self, first: int, count: int, then: Then, tries: int = REFRESHES, known: int = -1) -> None:
        """See to it that the tags of these blocks are there; when `then` is called they are, until the next wait.

        tries: how often the record may be read again and be the same, for which the turn is taken; 0 for one who has it. As long
        as others commit, it is their doing. known: the generation of the record at which it was tried before.
        """
        ahead = AHEAD_PAGES * FAN_OUT if first // FAN_OUT == self._next_leaf else 0
        fetches = self.file.fetches(first, count, ahead)
        if not fetches:
            then(None)
            return
        self._next_leaf = (first + count + ahead - 1) // FAN_OUT + 1

        def loaded(error: Exception | None) -> None:
            if error is None:
                # Perhaps another record was adopted meanwhile: look again.
                self.with_tags(first, count, then, tries, known)
            elif isinstance(error, IntegrityError) and tries:
                at = self.file.record.generation
                again = partial(self.with_tags, first, count, then, tries - (at == known), at)
                self.refresh(lambda failed: then(failed) if failed else again())
            else:
                then(error)

        self._load(fetches, loaded)

    def _load(self, fetches: list[Fetch], then: Then) -> None:
        """Read parts of the aux stream and supply them."""
        most = max(1, self.transport.limits.max_payload // PAGE_SIZE)
        parts = [
            Fetch(fetch.pos + at * PAGE_SIZE, fetch.pages[at : at + most])
            for fetch in fetches
            for at in range(0, len(fetch.pages), most)
        ]
        tree = self.file.tree
        leases: list[Lease] = [self.pool.get(part.length) for part in parts]
        received: dict[int, int] = {}
        errors: list[Exception] = []

        def finish() -> None:
            if not errors and self.file.tree is tree:
                try:
                    self.file.supply((part, leases[n].view[: received[n]]) for n, part in enumerate(parts))
                except IntegrityError as error:
                    errors.append(error)
            for lease in leases:
                lease.release()
            then(errors[0] if errors else None)

        def submit(n: int, part: Fetch) -> None:
            def done(outcome: Outcome) -> None:
                body = body_of(outcome, ReadReply)
                if isinstance(body, Exception):
                    errors.append(body)
                received[n] = outcome.received if isinstance(outcome, Reply) else 0
                if len(received) == len(parts):
                    finish()

            dest = IovIter.ubuf(Direction.DEST, leases[n].view)
            self.transport.submit(AuxRead(self.handle, part.pos, part.length), done, dest=dest)

        for n, part in enumerate(parts):
            submit(n, part)

    # ---- the record

    def take_entry(self, record: bytes, generation: int, then: Then) -> None:
        """Take the record that came with a name that was just looked up, unless a newer one is known."""

        def run() -> None:
            try:
                if not self.loaded:
                    self.file = EncryptedFile(self.key, record)
                    self.loaded, self.generation = True, generation
                    missing: list[Fetch] = []
                elif record == self.file.sealed or open_record(self.key, record).generation <= self.file.record.generation:
                    missing = self.file.missing_for_redo()
                else:
                    missing = self.file.adopt(record)
                    self.generation = generation
                    self._others()
            except Exception as error:  # noqa: BLE001 (handed on to the one who asked)
                ended(error)
                return
            if missing:
                self._load(missing, supplied)
            else:
                supplied(None)

        def supplied(error: Exception | None) -> None:
            if error is None:
                self.file.redo()
                ended(None)
            elif isinstance(error, IntegrityError):
                self._refresh(ended)
            else:
                ended(error)

        def ended(error: Exception | None) -> None:
            self.give_turn()
            then(error)

        self.take_turn(run)

    def refresh(self, then: Then) -> None:
        """Read the record again and take what another client has committed."""

        def run() -> None:
            self._refresh(ended)

        def ended(error: Exception | None) -> None:
            self.give_turn()
            then(error)

        self.take_turn(run)

    def _others(self) -> None:
        self.others += 1
        self.told += 1
        self.on_others()

    def _refresh(self, then: Then, tries: int = REFRESHES, known: int = -1) -> None:
        asked = self.freshness.clock
        claims, doubtful = list(self.claims), list(self.doubtful)
        begun = -1 if self._puts_open else self._puts_begun

        def got(outcome: Outcome) -> None:
            body = body_of(outcome, RecordReply)
            if isinstance(body, Exception):
                then(body)
                return
            mine = {row.key for row in body.intents if row.mine}
            gone = [claim for claim in claims if claim.key not in mine and claim in self.claims]  # the server was started again
            self.risk.unguarded(gone, self._written_blocks)
            self.claims = [claim for claim in self.claims if claim not in gone]
            self._judge(doubtful, mine)
            if begun == self._puts_begun:
                self.unsure = False
                self.orphans += self.unknown(body.intents)
            try:
                missing = self._take_record(body, asked)
            except Exception as error:  # noqa: BLE001 (handed on to the one who asked)
                then(error)
                return
            if missing is None:
                self._refresh(then, tries, known)
            elif missing:
                self._load(missing, supplied)
            else:
                supplied(None)

        def supplied(error: Exception | None) -> None:
            if error is None:
                self.file.redo()
                then(None)
            elif isinstance(error, IntegrityError) and tries:
                at = self.file.record.generation
                self._refresh(then, tries - (at == known), at)
            else:
                then(error)

        self.transport.submit(RecordGet(self.handle), got)

    def _take_record(self, reply: RecordReply, asked: int) -> list[Fetch] | None:
        """Take a record for what the file is now. Returns: what to supply; None when it is to be asked for again.

        Raises: Malformed, WrongKey, IntegrityError, Rollback.
        """
        if not reply.record:
            raise Malformed("not an encrypted file: it has no record")
        if self.loaded and reply.record == self.file.sealed:
            self.generation = reply.generation
            self._note_intents(reply.intents)
            return self.file.missing_for_redo()
        record = open_record(self.key, reply.record)
        if not self.freshness.observe(record.file_id, record.generation, reply.record, asked):
            return None
        missing: list[Fetch] = []
        if not self.loaded:
            self.file = EncryptedFile(self.key, reply.record)
            self.loaded = True
        else:
            missing = self.file.adopt(reply.record)
            self._others()
        self.generation = reply.generation
        self._note_intents(reply.intents)
        return missing
