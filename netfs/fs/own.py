"""Sans-IO. The attributes of a file that was made here, as long as a write lease keeps others out: kept, and changed, here.

Who makes a file gives it times, a mode and an owner next, one by one, and the kernel of a mount looks at it in between. While
this client has a write lease on a file that it made itself, nobody else can change it, and the server does not refuse it what an
owner may do; so such changes can be *held back*. They go to the server in one message with the bytes: when the file is flushed,
synced or closed, before it is written to again, when somebody else opens it, and at the latest after `HOLD_S`. What fails is told
as a failed write is. Nothing is held back that the server could refuse, or do differently: another owner, the set-id bits, the
server's own clock. The time of change shown meanwhile is the server's when it was last heard of and what has passed since. What
somebody does to a served folder past its server nobody tells of, so that nothing is believed for longer than `FRESH_S`. Owns no
memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from netfs.fs.known import FRESH_S, KnownAttributes
from transport.env import Env
from transport.messages import NOW_NS, Attr, Handle, Setattr

if TYPE_CHECKING:
    from netfs.fs.inode import Inode

__all__ = ["HOLD_S", "Keeper", "Own", "attributes", "heard", "hold_back", "own", "with_held"]

HOLD_S: Final = 0.5
_SET_ID: Final = 0o7000
_FIELDS: Final = ("mode", "uid", "gid", "atime_ns", "mtime_ns")


class Keeper(Protocol):
    """What is asked of a client. owning: what stands for the write lease on a file, None without one."""

    env: Env
    known: KnownAttributes
    owning: Callable[[Handle], object | None]

    def settle_later(self, inode: "Inode", delay_s: float) -> None:
        """Send what is held back of a file after a while."""


@dataclass(slots=True, eq=False)
class Own:
    """What is known of a file that was made here, since `told_s`. attr: the server's last word; lease: what vouches for it.

    state: the counts of changes of the file and of names from here, as they were then. held: what is held back.
    """

    attr: Attr
    lease: object
    told_s: float
    state: tuple[int, int]
    held: Setattr | None = None


def own(client: Keeper, inode: "Inode", attr: Attr) -> None:
    """A file was made here; `attr` is what the server says of it."""
    lease = client.owning(inode.handle)
    if lease is not None:
        inode.own = Own(replace(attr), lease, client.env.now(), _state(client, inode))


def heard(client: Keeper, inode: "Inode", attr: Attr) -> None:
    """The server has said what a file is like, and nothing of it is under way."""
    mine = inode.own
    if mine is not None and not inode.mapping.dirty and mine.lease is client.owning(inode.handle):
        mine.attr, mine.told_s, mine.state = replace(attr), client.env.now(), _state(client, inode)


def _state(client: Keeper, inode: "Inode") -> tuple[int, int]:
    return inode.modified, client.known.changes


def hold_back(client: Keeper, inode: "Inode", change: Setattr) -> bool:
    """Keep a change of attributes, if it may be. Returns: whether it is."""
    mine = inode.own
    if mine is None or mine.lease is not client.owning(inode.handle):
        return False
    attr = mine.attr
    if (attr.mode | (change.mode or 0)) & _SET_ID or NOW_NS in {change.atime_ns, change.mtime_ns}:
        return False
    if change.uid not in {None, attr.uid} or change.gid not in {None, attr.gid} or change.size is not None:
        return False
    if mine.held is None:
        mine.held = replace(change)
        client.settle_later(inode, HOLD_S)
        return True
    for name in _FIELDS:
        value = getattr(change, name)
        if value is not None:
            setattr(mine.held, name, value)
    return True


def attributes(client: Keeper, inode: "Inode") -> Attr | None:
    """Return the attributes of a file for users of this client, where no server need be asked; the size is not to be believed."""
    mine = inode.own
    if mine is None or mine.lease is not client.owning(inode.handle):
        return None
    passed_s = client.env.now() - mine.told_s
    modified, names = mine.state
    held = mine.held
    if names != client.known.changes or passed_s > FRESH_S or (held is None and modified != inode.modified):
        return None
    attr = replace(mine.attr)
    if held is None:
        return attr
    attr.ctime_ns += int(passed_s * 1e9)
    if modified != inode.modified:
        attr.mtime_ns = attr.ctime_ns
    with_held(mine, attr)
    return attr


def with_held(mine: Own, attr: Attr) -> None:
    """Change attributes as what is held back will."""
    if mine.held is not None:
        for name in _FIELDS:
            value = getattr(mine.held, name)
            if value is not None:
                setattr(attr, name, value)
