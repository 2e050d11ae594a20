"""Sans-IO. The events that layers report to `Probe.sink`: their names, and the names of their fields in order.

Names after the tracepoints of Linux netfslib where it has them. Fields are plain numbers, strings and bytes, and none tells an
address or a time: two equal runs report equal events. Whoever emits builds the fields by hand, where this table can be read
beside; tests hold the two together. Owns no memory.

    request, index   R=request[index] of the text trace: numbers a probe gives to requests, and a request to its subrequests
    call             of the public interface: a number a probe gives to what a program asks a client or a file for
    xid              of a call to the server, as on the wire; the same on both sides of a connection; 0 for none
    level            what a side has at a time: "dirty bytes", "registered bytes", "send credits"
    flags            bits, named in `netfs/engine/events.py`
    error, status    0 or an errno; status of a work completion: 0 or a WcStatus
"""

from typing import Final

__all__ = ["EVENTS"]

EVENTS: Final[dict[str, tuple[str, ...]]] = {
    # netfs/engine
    "netfs_read": ("request", "what", "inode", "start", "length", "i_size"),
    "netfs_write": ("request", "what", "inode", "start", "end"),
    "netfs_write_iter": ("inode", "start", "length"),
    "netfs_rreq": ("request", "origin", "what", "flags", "transferred", "length", "error"),
    "netfs_sreq": ("request", "index", "source", "what", "flags", "start", "transferred", "length", "error"),
    "netfs_failure": ("request", "index", "source", "flags", "start", "transferred", "length", "what", "error"),
    "netfs_folio": ("inode", "index", "what", "length"),
    "netfs_collect": ("request", "start", "end"),
    "netfs_collect_sreq": ("request", "stream", "index", "start", "transferred", "length"),
    "netfs_collect_folio": ("request", "index", "start", "end", "collected_to"),
    "netfs_collect_gap": ("request", "stream", "start", "end"),
    "netfs_collect_stream": ("request", "stream", "collected_to", "left"),
    "netfs_collect_state": ("request", "collected_to", "cleaned_to", "flags"),
    "netfs_copy2cache": ("request", "copy"),
    "netfs_wb_lock": ("inode", "what"),
    "level": ("what", "value"),
    # netfs/fs
    "api_call": ("call", "what", "path"),
    "api_request": ("call", "request"),
    "api_done": ("call", "what", "error"),
    "netfs_call": ("request", "index", "op", "xid"),
    "crypto_seal": ("request", "index", "first_block", "blocks", "block_size"),
    "crypto_open": ("request", "index", "first_block", "blocks", "block_size"),
    "audit": ("path", "file_id", "block", "error", "reason"),
    # transport
    "connection": ("what", "transport", "error"),
    "call_sent": ("xid", "op", "body", "payload"),
    "reply_received": ("xid", "op", "status", "payload"),
    "call_received": ("xid", "op", "payload"),
    "reply_sent": ("xid", "op", "status", "payload"),
    "wr_posted": ("qp", "wr_id", "opcode", "length", "sges", "xid"),
    "wr_completed": ("qp", "wr_id", "opcode", "length", "status"),
    # servers
    "server_op": ("op", "status", "received", "sent"),
}
