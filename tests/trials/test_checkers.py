"""The checkers: each kind of wrong history is found and named, and right ones are let be."""

import json
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from iov.probe import Probe
from transport.env import system_env
from transport.reconnect import Recovery, SessionTransport
from trials.bench.checkers import history as register_history
from trials.cells import CELL, fill, parse
from trials.checkers.atomic import check_atomic
from trials.checkers.isolation import RedZones
from trials.checkers.leaks import check_leaks
from trials.checkers.namespace import ABSENT, EXISTS, check_namespace
from trials.checkers.nonces import Ledger, NonceUsedTwice, watch
from trials.checkers.once import check_log
from trials.checkers.sessions import check_sessions
from trials.checkers.wgl import Call, search
from trials.checkers.zones import BACK, EARLY, LOST, NOBODY, Interval, check_register
from trials.history import NEVER, History, Op
from trials.workloads.actor import Actor, Fd

if TYPE_CHECKING:
    from netfs.fs.client import Client
    from netfs.fs.file import File
    from transport.base import Transport
    from transport.reconnect import Dial

# ---- one cell


def random_register(rng: random.Random) -> tuple[list[Interval], list[Interval]]:
    """Operations of up to five clients on a register that now and then answers, or takes effect, wrongly."""
    writes: list[Interval] = []
    reads: list[Interval] = []
    pending: dict[int, tuple[int, int, bool]] = {}
    effects: dict[int, int] = {}
    value, made, most = 0, 0, rng.randrange(2, 11)
    wrong, silent, clients = rng.choice((0.0, 0.1, 0.3)), rng.choice((0.0, 0.3)), rng.randrange(1, 6)
    for tick in range(4 * most):
        client = rng.randrange(clients)
        if client not in pending:
            if made < most:
                made += 1
                pending[client] = (made, tick, rng.random() < 0.5)
            continue
        number, call, is_write = pending[client]
        if client not in effects:
            if is_write:
                value = number if rng.random() >= wrong else value
            effects[client] = number if is_write else value if rng.random() >= wrong else rng.randrange(made + 1)
        if rng.random() < 0.6:
            del pending[client]
            seen = effects.pop(client)
            (writes if is_write else reads).append((seen, call, NEVER if is_write and rng.random() < silent else tick))
    writes += [(number, call, NEVER) for number, call, is_write in pending.values() if is_write]
    return writes, reads


def by_search(writes: list[Interval], reads: list[Interval]) -> bool | None:
    calls = [Call((number, True), call, ret) for number, call, ret in writes]
    calls += [Call((number, False), call, ret) for number, call, ret in reads]
    return search(calls, 0, lambda state, what: (what[0],) if what[1] or state == what[0] else ()).linearizable


def compare(seeds: range) -> int:
    """Judge random histories by zones and by search. Returns: how many were wrong."""
    found = 0
    for seed in seeds:
        writes, reads = random_register(random.Random(seed))
        by_zones = check_register(writes, reads) is None
        assert by_zones == by_search(writes, reads), f"seed {seed}: {by_zones} by zones; writes {writes}, reads {reads}"
        found += not by_zones
    return found


def test_zones_agree_with_a_search() -> None:
    assert 500 < compare(range(4000)) < 3500


@pytest.mark.slow
def test_zones_agree_with_a_search_on_20000_histories() -> None:
    assert 2500 < compare(range(10_000, 30_000)) < 17_500


def test_each_kind_of_violation() -> None:
    writes = [(1, 0, 1), (2, 2, 3)]
    for reads, kind in (
        ([(1, 4, 5)], LOST),
        ([(2, 4, 5), (1, 6, 7)], BACK),
        ([(2, 0, 1)], EARLY),
        ([(9, 4, 5)], NOBODY),
    ):
        violation = check_register(writes, reads)
        assert violation is not None and violation.kind == kind
    violation = check_register([*writes, (3, 4, 5)], [(2, 6, 7)])
    assert violation is not None and (violation.kind, violation.first, violation.second) == (LOST, 2, 3)
    assert check_register([*writes, (3, 4, NEVER)], [(2, 6, 7), (3, 8, 9)]) is None
    assert check_register([*writes, (3, 4, 5)], [(2, 6, 7), (3, 8, 9)]) is not None


def test_a_long_history_is_checked() -> None:
    writes, reads = register_history(20_000)
    assert check_register(writes, reads) is None
    number, call, ret = reads[9000]
    reads[9000] = (writes[100][0], call, ret)
    assert number != writes[100][0]
    assert check_register(writes, reads) is not None


# ---- files


class Story:
    """A history told in few words: one operation after another, on a file of cells."""

    def __init__(self) -> None:
        self.history = History()
        self.fds: dict[str, int] = {}

    def open(self, client: str, mode: str = "r+") -> None:
        op = self.history.begin(client, "open", "f", fd=self.history.new_fd(), args=(mode,))
        self.fds[client] = op.fd
        self.history.end(op)

    def write(self, client: str, first: int, count: int, *, error: int = 0, direct: bool = False) -> Op:
        op = self.history.begin(
            client, "write", "f", fd=self.fds.get(client, -1), pos=first * CELL, length=count * CELL, direct=direct
        )
        if error:
            self.history.fail(op, error)
        else:
            self.history.end(op, op.length)
        return op

    def done(self, client: str, kind: str, error: int = 0) -> None:
        op = self.history.begin(client, kind, "f", fd=self.fds.get(client, -1))
        if error:
            self.history.fail(op, error)
        else:
            self.history.end(op)

    def read(self, client: str, first: int, data: bytes | bytearray, *, direct: bool = False) -> None:
        fd = self.fds.get(client, -1)
        op = self.history.begin(client, "read", "f", fd=fd, pos=first * CELL, length=len(data), direct=direct)
        self.history.end(op, len(data), seen=parse(data, first, self.history.is_of("f")))

    def found(self) -> list[str]:
        return [failure.kind for failure in check_sessions(self.history, "f")]

    def found_direct(self) -> list[str]:
        return [str(failure) for failure in check_atomic(self.history, "f")]


def test_direct_reads_see_one_order() -> None:
    story = Story()
    one, two = story.write("a", 0, 4, direct=True), story.write("b", 1, 2, direct=True)
    story.read("c", 0, fill(one.id, 0, 1) + fill(two.id, 1, 2) + fill(one.id, 3, 1), direct=True)
    assert story.found_direct() == []
    story.read("c", 0, fill(one.id, 0, 4), direct=True)
    (told,) = story.found_direct()
    assert told.startswith("U1 stale read: f cells 0x1-0x2 (bytes 0x10-0x2f)")
    assert f"write #{one.id}" in told and f"write #{two.id}" in told and "by c" in told


def test_a_write_that_is_sent_again_may_undo_another() -> None:
    for overlapping in (False, True):
        story = Story()
        again = story.history.begin("a", "write", "f", length=CELL, direct=True)
        if not overlapping:
            story.history.end(again, CELL)
        story.read("c", 0, fill(again.id, 0, 1), direct=True)
        other = story.write("b", 0, 1, direct=True)
        story.read("c", 0, fill(other.id, 0, 1), direct=True)
        story.read("c", 0, fill(again.id, 0, 1), direct=True)
        if overlapping:
            story.history.end(again, CELL)
        assert len(list(check_atomic(story.history, "f"))) == 1
        assert len(list(check_atomic(story.history, "f", repeats=True))) == (not overlapping)


def test_a_crash_may_take_direct_writes_that_were_not_safe() -> None:
    for synced in (False, True):
        story = Story()
        one = story.write("a", 0, 1, direct=True)
        story.done("a", "fsync")
        two = story.write("a", 0, 1, direct=True)
        story.read("b", 0, fill(two.id, 0, 1), direct=True)
        if synced:
            story.done("a", "fsync")
        story.history.mark("crash", "server")
        story.read("b", 0, fill(one.id, 0, 1), direct=True)
        assert bool(story.found_direct()) == synced
        assert bool(story.found()) == synced


@pytest.mark.parametrize("kind", ["close", "fsync"])
def test_close_to_open(kind: str) -> None:
    story = Story()
    story.open("a")
    one = story.write("a", 0, 2)
    story.done("a", kind)
    story.open("b")
    story.read("b", 0, fill(one.id, 0, 2))
    two = story.write("a", 0, 2)
    story.read("b", 0, fill(one.id, 0, 2))  # a session that overlaps may see either
    story.done("a", kind)
    story.read("b", 0, fill(two.id, 0, 1) + fill(one.id, 1, 1))
    assert story.found() == []
    story.open("b")
    story.read("b", 0, fill(two.id, 0, 1) + fill(one.id, 1, 1))
    assert story.found() == ["U1 stale after open"]


def test_an_error_leaves_open_what_became_of_the_data() -> None:
    story = Story()
    story.open("a")
    one = story.write("a", 0, 1)
    story.done("a", "fsync")
    story.write("a", 0, 1)
    story.done("a", "fsync", error=5)
    story.done("a", "close")
    story.open("audit")
    story.read("audit", 0, fill(one.id, 0, 1))
    assert story.found() == []
    story.write("a", 0, 1)
    story.done("a", "close")
    story.open("audit")
    story.read("audit", 0, fill(one.id, 0, 1))
    assert story.found() == ["U7 lost without an error"]


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_the_close_of_a_descriptor_that_only_reads_makes_nothing_safe(mode: str) -> None:
    story = Story()
    story.open("a")
    one = story.write("a", 0, 1)
    story.done("a", "fsync")
    story.write("a", 0, 1)
    story.open("a", mode)
    story.done("a", "close")
    story.history.mark("crash", "server")
    story.open("b")
    story.read("b", 0, fill(one.id, 0, 1))
    assert story.found() == ([] if mode == "r" else ["U1 lost after crash"])


def test_own_writes_are_seen() -> None:
    story = Story()
    story.open("a")
    one = story.write("a", 0, 1)
    story.done("a", "fsync")
    story.write("a", 0, 1)
    story.read("a", 0, fill(one.id, 0, 1))
    assert story.found() == ["U1 own write not seen"]


def test_data_that_no_order_explains() -> None:
    story = Story()
    one = story.write("a", 0, 4)
    other = story.history.begin("a", "write", "g", length=64)
    story.history.end(other, 64)
    rot = fill(one.id, 3, 1)
    rot[13] ^= 64
    story.read("b", 0, fill(one.id, 1, 1) + fill(other.id, 1, 1) + fill(one.id, 2, 1) + rot)
    assert story.found() == ["U1 misdirected data", "U1 foreign data", "U1 rotten data"]
    assert "for cell 0x1 by write #1" in str(next(check_sessions(story.history, "f")))


@pytest.mark.parametrize("beside", [False, True])
def test_a_cell_may_be_torn_beside_its_write(beside: bool) -> None:
    story = Story()
    one = story.write("a", 0, 1, direct=True)
    two = story.history.begin("b", "write", "f", length=CELL, direct=True)
    if not beside:
        story.history.end(two, CELL)
    story.read("c", 0, fill(two.id, 0, 1)[:5] + fill(one.id, 0, 1)[5:], direct=True)
    if beside:
        story.history.end(two, CELL)
    assert [told.split(":")[0] for told in story.found_direct()] == ([] if beside else ["U1 torn data"])
    assert story.found() == ([] if beside else ["U1 torn data"])


def test_a_history_is_lines_of_json() -> None:
    story = Story()
    story.open("a")
    one = story.write("a", 0, 1)
    story.history.mark("crash", "server")
    story.read("a", 0, fill(one.id, 0, 1))
    story.done("a", "fsync", error=28)
    rows = [json.loads(line) for line in story.history.lines()]
    assert [row.get("kind", row.get("mark")) for row in rows] == ["open", "write", "crash", "read", "fsync"]
    assert rows[3]["seen"] == [[0, 1, one.id, "good"]]
    assert (rows[4]["outcome"], rows[4]["errno"]) == ("unknown", 28)


# ---- names


def named(history: History, kind: str, *names: str, answer: str | None = "") -> None:
    op = history.begin("a", kind, "/", args=names)
    if answer is None:
        history.fail(op, 5)
    else:
        history.end(op, result=answer)


def namespace(*story: tuple[str, ...]) -> list[str]:
    history = History()
    for kind, *rest in story:
        *names, answer = rest
        named(history, kind, *names, answer=None if answer == "?" else answer)
    return [failure.kind for failure in check_namespace(history)]


@pytest.mark.parametrize(
    "story",
    [
        [("create", "a", "7"), ("stat", "a", "7"), ("rename", "a", "b", ""), ("stat", "a", ABSENT), ("stat", "b", "7")],
        [("create", "a", "?"), ("create", "a", EXISTS), ("stat", "a", "9"), ("unlink", "a", ""), ("stat", "a", ABSENT)],
        [("create", "a", "7"), ("link", "a", "b", ""), ("unlink", "a", ""), ("stat", "b", "7"), ("readdir", "b")],
        [("create", "a", "7"), ("unlink", "a", "?"), ("create", "b", "8"), ("readdir", "b"), ("stat", "a", ABSENT)],
        [("create", "a", "7"), ("link", "a", "b", ""), ("rename", "a", "b", ""), ("stat", "a", "7"), ("stat", "b", "7")],
    ],
)
def test_possible_namespaces(story: list[tuple[str, ...]]) -> None:
    assert namespace(*story) == []


@pytest.mark.parametrize(
    "story",
    [
        [("create", "a", "7"), ("stat", "a", ABSENT)],
        [("create", "a", "7"), ("create", "a", "8")],
        [("create", "a", "7"), ("unlink", "a", ""), ("unlink", "a", "")],
        [("create", "a", "7"), ("rename", "a", "b", ""), ("stat", "b", "8")],
        [("create", "a", "7"), ("link", "a", "b", ""), ("readdir", "a")],
        [("create", "a", "7"), ("rename", "a", "b", ""), ("readdir", "a/b")],
    ],
)
def test_impossible_namespaces(story: list[tuple[str, ...]]) -> None:
    assert namespace(*story) == ["U6 impossible namespace"]


def test_a_search_beyond_its_budget_does_not_know() -> None:
    calls = [Call(number, 0, NEVER) for number in range(12)] + [Call(-1, 1, 2)]
    verdict = search(calls, frozenset[int](), lambda state, what: (state | {what},) if what >= 0 else (), budget=50)
    assert verdict.linearizable is None


# ---- logs


def log(*pieces: tuple[int, int], ok: tuple[bool, ...] = (True, True)) -> list[str]:
    """Two records of one descriptor, safe if ok, and what is in the log: (record, cells)."""
    history = History()
    for good in ok:
        op = history.begin("a", "append", "log", fd=1, length=4 * CELL)
        if good:
            history.end(op, op.length)
        else:
            history.fail(op, 5)
    sync = history.begin("a", "fsync", "log", fd=1)
    history.end(sync)
    content = bytearray()
    for number, cells in pieces:
        content += fill(number, 0, 4)[: cells * CELL]
    return [failure.kind for failure in check_log(history, "log", content)]


def test_records_are_there_once_and_in_order() -> None:
    assert log((1, 4), (2, 4)) == []
    assert log((1, 4), (2, 4), (1, 4)) == ["U6 record twice"]
    assert log((2, 4), (1, 4)) == ["U6 records out of order"]
    assert log((1, 4)) == ["U6 record lost"]
    assert log((1, 3), (2, 4)) == ["U6 record lost"]
    assert log((2, 4), ok=(False, True)) == []
    assert log((1, 3), (2, 4), ok=(False, True)) == []
    assert log((7, 4), (2, 4), ok=(False, True)) == ["U6 no record"]


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("cut", [1, 12])
def test_only_a_record_that_was_not_safe_may_end_within_a_cell(cut: int, safe: bool) -> None:
    history = History()
    op = history.begin("a", "append", "log", fd=1, length=4 * CELL)
    history.end(op, op.length)
    if safe:
        history.end(history.begin("a", "fsync", "log", fd=1))
    data = bytes(CELL + cut) + fill(op.id, 0, 4)[CELL + cut :]
    assert [failure.kind for failure in check_log(history, "log", data)] == (["U6 no record", "U6 record lost"] if safe else [])
    other = bytes(cut) + b"x" * (CELL - cut)
    assert [failure.kind for failure in check_log(history, "log", other)][:1] == ["U6 no record"]


# ---- memory


def test_red_zones() -> None:
    zones = RedZones()
    lent = zones.lend("read #1", (10, 0, 20))
    lent.views[0][:] = b"x" * 10
    lent.views[2][:5] = b"y" * 5
    assert lent.content(15) == b"x" * 10 + b"y" * 5
    assert lent.returned(15) is None and zones.check() is None
    failure = lent.returned(14)
    assert failure is not None and failure.kind == "U5 beyond the count"
    lent.views[0][3] = 0
    failure = zones.check()
    assert failure is not None and failure.kind == "U5 touched after return"
    lent.memory[lent.spans[2][1]] = 0
    failure = lent.returned(15)
    assert failure is not None and failure.kind == "U5 red zone"


@pytest.mark.parametrize(("lost", "direct", "kinds"), [
    (False, True, ["U5 beyond the count"]), (True, False, ["U5 beyond the count"]), (True, True, []),
])  # fmt: skip
async def test_memory_behind_the_count(lost: bool, direct: bool, kinds: list[str]) -> None:
    session = SessionTransport(cast("Dial", None), system_env(), Probe(), Recovery())
    session._session.live.append(cast("Transport", object()))

    class Shrinking:
        """A file whose first answer is lost after it has come, and which is shorter the second time."""

        async def preadv(self, views: list[memoryview], pos: int) -> int:
            if not views or pos:
                return 0
            if lost:
                session._session.live[:] = [cast("Transport", object())]
            for view in views:
                view[:] = b"x" * len(view)
            return 10

    history = History(lambda: 0.0)
    actor = Actor("client0", cast("Client", SimpleNamespace(transport=session)), history, RedZones())
    fd = Fd(actor, cast("File", Shrinking()), "/f", 1, direct)
    await fd.read(0, 20, random.Random(2))
    assert [failure.kind for failure in history.failures] == kinds


# ---- secrets


def test_a_ledger_of_its_own() -> None:
    from crypto.aead import Aead, Suite

    outside, inside = Ledger(raises=False), Ledger()
    with watch(outside):
        aead = Aead(Suite.AES_256_GCM, bytes(32))
        out = memoryview(bytearray(20))
        aead.encrypt_into(bytes(12), b"abcd", b"", out)
        with watch(inside):
            aead.encrypt_into(bytes(12), b"efgh", b"", out)
            with pytest.raises(NonceUsedTwice):
                aead.encrypt_into(bytes(12), b"ijkl", b"", out)
            long = memoryview(bytearray(16 * CELL + 16))
            aead.encrypt_into(bytes(11) + b"1", fill(1, 0, 16), b"", long)
            with pytest.raises(NonceUsedTwice):
                aead.encrypt_into(bytes(11) + b"1", fill(1, 16, 16), b"", long)
        assert not outside.repeats
        aead.encrypt_into(bytes(12), b"mnop", b"", out)
    assert len(outside.repeats) == 1 and len(inside.repeats) == 2


def test_plaintext_is_found() -> None:
    story = Story()
    one = story.write("a", 0, 64)
    secret = bytes(fill(one.id, 0, 64))

    def streams(*pieces: bytes) -> Iterator[tuple[str, list[bytes | memoryview]]]:
        yield "a wire", list(pieces)

    assert check_leaks(story.history, streams(bytes(2000), secret[:100])) is None
    failure = check_leaks(story.history, streams(b"?" * 77 + secret[:500], secret[500:]))
    assert failure is not None and failure.kind == "U4 plaintext" and f"write #{one.id}" in failure.message
    failure = check_leaks(story.history, streams(b"?" * 70 + b"k" * 20, b"k" * 12), secrets=[b"k" * 32])
    assert failure is not None and failure.kind == "U4 key"
