"""Sans-IO. The operations table: how a filesystem plugs into the request library.

One `NetfsOps` object belongs to one inode. The library splits, issues, collects, retries and caches; the filesystem says how
large a part may be and moves its bytes. Life of a subrequest:

    await init_request(rreq)         once per request; may wait (load what the issue hooks need); end_request(rreq) when it ends
    prepare_read(subreq)             may lower subreq.max_len (credits, rsize); at least one block stays
    subreq.iter = memory, at most max_len bytes in at most `max_segs` segments
    issue_read(subreq)               start the I/O and return at once; put the call in subreq.call
    subreq.terminated(n, error, eof=…)   exactly once per issue, from the Trio thread, perhaps before issue_read returns

The same with prepare_write and issue_write. What a short transfer left is issued again as a new object with `iter` at the rest;
`subreq.start + subreq.transferred` is the position of an issue and `subreq.iter.count` the length to move.

Blocks. `block_size` is the unit that only moves whole (a crypto block; 1 for none). Every read and write request begins on a
block boundary and ends on one, and no subrequest crosses anything but boundaries; what the caller did not ask for is a DISCARD
gap in the iterator of a direct read, or staged memory in a write. Bytes of the last block behind i_size are zero in a write and
ignored in a read. With blocks a read never asks beyond i_size rounded up; without, the server says where the file ends. After
`netfs_request_ops` of Linux netfslib; where that table may sleep, the hook here is a coroutine. Owns no memory.
"""

import errno
from abc import ABC, abstractmethod

from netfs.engine.request import IoRequest, IoSubrequest

__all__ = ["NetfsOps"]


class NetfsOps(ABC):
    """What the request library asks of a filesystem, for one inode.

    rsize, wsize: most bytes of one read or write subrequest, multiples of `block_size`. max_segs: most memory segments of one.
    max_in_flight: most subrequests of one request under way at a time. seals: what the server and a local cache store is not
    what is in the folios, but ciphertext: then the table itself gives the cache what it received from or sent to the server.
    stages_writes: a write has to be prepared before it is sent, and the next part of a sequential one can be while one is on
    its way.
    """

    __slots__ = ()
    seals: bool = False
    stages_writes: bool = False
    block_size: int = 1
    rsize: int
    wsize: int
    max_segs: int
    max_in_flight: int = 16

    async def init_request(self, rreq: IoRequest) -> None:  # noqa: B027 (a hook that most filesystems leave empty)
        """Prepare for a request before any of it is issued.

        Raises: an error that becomes the request's. Cancellation: the request then never began.
        """

    def end_request(self, rreq: IoRequest) -> None:  # noqa: B027 (a hook that most filesystems leave empty)
        """Let go of what `init_request` took for a request; called once for each that began, also when `init_request` failed."""

    def prepare_read(self, subreq: IoSubrequest) -> None:
        """Lower `subreq.max_len` to what one read may take now; called again before each retry with what is left."""
        if subreq.max_len > self.rsize:
            subreq.max_len = self.rsize

    @abstractmethod
    def issue_read(self, subreq: IoSubrequest) -> None:
        """Start reading `subreq.iter.count` bytes at `subreq.start + subreq.transferred` into `subreq.iter`."""

    def issue_cache_read(self, subreq: IoSubrequest) -> None:
        """Start reading `subreq.iter.count` bytes at `subreq.start + subreq.transferred` from `cookie` of the inode.

        A plain file's cached bytes are its own, and the library's way will do; an encrypted file's are ciphertext, so its table
        reads them into a landing area and opens them there, as it does with the server's.
        """
        cookie = subreq.request.inode.cookie
        assert cookie is not None, "a cache read without a cache"
        call = cookie.read(subreq.start + subreq.transferred, subreq.iter, subreq.terminated)
        if subreq.in_progress:
            subreq.call = call

    def issue_cache_write(self, subreq: IoSubrequest) -> None:
        """Start writing `subreq.iter` to the cookie; only called while `seals` is false."""
        cookie = subreq.request.inode.cookie
        assert cookie is not None, "a cache write without a cache"
        call = cookie.write(subreq.start + subreq.transferred, subreq.iter, subreq.terminated)
        if subreq.in_progress:
            subreq.call = call

    def prepare_write(self, subreq: IoSubrequest) -> None:
        """Lower `subreq.max_len` to what one write may take now."""
        if subreq.max_len > self.wsize:
            subreq.max_len = self.wsize

    def issue_write(self, subreq: IoSubrequest) -> None:
        """Start writing `subreq.iter.count` bytes at `subreq.start + subreq.transferred` from `subreq.iter`.

        Bytes written unstably carry the boot verifier of the reply in `subreq.verifier`, set before `terminated`. A filesystem
        that is only read leaves this, `commit` and `resize` as they are.
        """
        subreq.terminated(0, OSError(errno.EROFS, "a filesystem that is only read"))

    def stage_write(self, subreq: IoSubrequest) -> None:  # noqa: B027 (only for who sets `stages_writes`)
        """Do what `issue_write` has to do before it sends, and leave it in `subreq.staged`: encrypt into a landing area.

        Called for the next part of a sequential write while one is on its way; `issue_write` or `drop_staged` follows.
        """

    def drop_staged(self, subreq: IoSubrequest) -> None:
        """Give back what was staged for a part that will not be issued, because the one before it failed."""
        if subreq.staged is not None:
            subreq.staged.abandon()

    def retry_request(self, rreq: IoRequest) -> None:  # noqa: B027 (as above)
        """Look at a request before parts of it are issued again: renew what `prepare_read` and `prepare_write` go by.

        Nothing of it is in flight; `need_retry` says which parts will go.
        """

    @property
    def boot(self) -> int:
        """The boot verifier of the server that changes of size and holes go to, which are only kept by a commit of the same boot.

        0 where it is not known, or where they are durable at once.
        """
        return 0

    async def commit(self, verifier: int) -> int:
        """Make all writes terminated so far durable; the size they made is `inode.sizes.remote_i_size`.

        Args: verifier: of the boot that took the unstable writes, 0 when there were none.
        Returns: the verifier of the boot that committed. Another than `verifier` says that writes may be lost: the library
        writes again what it still has and calls commit once more; what it no longer has (direct writes) is reported as EIO.
        Cancellation: may have happened.
        """
        return verifier

    async def resize(self, size: int) -> None:
        """Set the file's size on the server; no other I/O of the inode is under way. Cancellation: may have happened."""
        raise OSError(errno.EROFS, "a filesystem that is only read")
