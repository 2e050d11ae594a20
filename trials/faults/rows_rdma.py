"""Trio shell. The catalogue's rows of layer R: what an RDMA device does to work requests and completions. Owns no memory."""

from typing import Final

from trials.faults.rows import NONE_YET, Row

__all__ = ["RDMA"]

ANY: Final = ("nth(wr, 1:60)",)
BREAKS: Final = ("RECONN", "E(ETIMEDOUT)", "E(EIO)", "?")

RDMA: Final = (
    Row("R1", "receiver not ready, for a while", "device", ("nth(send, 1:30)", "p(send, 0.05:0.4)"), ("OK", "RECONN"),
        "once or again and again; connections are made with no RNR retries, since credits see to it that a receive is there: "
        "this one gets them", needs="rdma-memory"),
    Row("R2", "receiver not ready too often", "device", ("nth(send, 1:30)",), BREAKS, "RNR_RETRY_EXC_ERR", needs="rdma-memory"),
    Row("R3", "acknowledgement lost", "device", ANY, ("OK", *BREAKS), "the request or its answer is lost, and sent again",
        {"what": ["answer", "request"]}, needs="rdma-memory"),
    Row("R4", "transport retries exceeded", "device", ANY, BREAKS, "RETRY_EXC_ERR", needs="rdma-memory"),
    Row("R5", "remote access error", "device", ("nth(write, 1:6)", "nth(read, 1:6)"), BREAKS, "REM_ACCESS_ERR",
        needs="rdma-memory"),
    Row("R6", "local protection error", "device", ANY, BREAKS, "LOC_PROT_ERR", needs="rdma-memory"),
    Row("R7", "length error", "receive", ("nth(recv, 1:30)",), BREAKS, "a receive is too small: LOC_LEN_ERR",
        needs="rdma-memory"),
    Row("R8", "remote operation error", "device", ANY, BREAKS, "REM_OP_ERR", needs="rdma-memory"),
    Row("R9", "queue pair goes to ERR", "device", ANY, BREAKS, "at any request; everything posted is flushed",
        needs="rdma-memory"),
    Row("R10", "completion queue overrun", "device", ANY, BREAKS, "CQ_ERR, and every queue pair of it fails",
        needs="rdma-memory"),
    Row("R11", "completion late", "device", ANY, ("OK", "RECONN"), "completions of sends are kept back for a while",
        {"for_s": (0.0005, 0.5)}, needs="rdma-memory"),
    Row("R12", "completions reordered across queues", "device", ANY, ("OK", "RECONN"),
        "those of receives come after later ones of sends",
        {"for_s": (0.0005, 0.1)}, needs="rdma-memory"),
    Row("R13", "unsignaled chain", "device", ("nth(reg_mr, 1:20)",), ("OK", "RECONN"),
        "the completion that stands for a chain comes late", {"for_s": (0.0005, 0.1)}, needs="rdma-memory"),
    Row("R14", "completion notification lost", "device", ANY, ("OK", "RECONN"), "until something else is completed",
        {"for_s": (0.001, 0.1)}, needs="rdma-memory"),
    Row("R15", "region invalidated in flight", "device", ("nth(write, 1:6)", "nth(read, 1:6)"), BREAKS,
        "the peer's region is gone when the request arrives", needs="rdma-memory"),
    Row("R16", "key mixed up", "device", ("nth(write, 1:6)", "nth(read, 1:6)"), BREAKS, "the request names another key",
        needs="rdma-memory"),
    Row("R17", "WRITE partly visible", "device", ("nth(write, 1:6)",), BREAKS,
        "pieces are placed backwards, then the connection breaks", needs="rdma-memory"),
    Row("R18", "disconnect in the middle of a READ", "device", ("nth(read, 1:6)",), BREAKS, "the answer never comes",
        needs="rdma-memory"),
    Row("R19", "disconnect after a WRITE was placed", "device", ("nth(write, 1:6)",), BREAKS, "placed whole, never completed",
        needs="rdma-memory"),
    Row("R20", "shared receive queue runs dry", NONE_YET, (), ("OK",), "the transport has a receive ring of its own"),
    Row("R21", "read depth exceeded", "world", ("at(0)",), ("OK",), "one READ or atomic at a time", needs="rdma-memory",
        knobs={"rd_atom": 1}),
    Row("R22", "few segments, few regions", "world", ("at(0)",), ("OK",), "of a device that can do little", needs="rdma-memory",
        knobs={"max_sge": 2}),
    Row("R23", "connection refused by the manager", "cm", ("nth(connect, 1:2)",), BREAKS, "and tried again", needs="rdma-memory",
        brings=("R9",)),
    Row("R24", "error while regions are recycled", "device", ("nth(reg_mr, 2:20)",), BREAKS, "the queue pair goes to ERR",
        needs="rdma-memory"),
    Row("R25", "fast registration fails", "device", ("nth(reg_mr, 1:20)", "nth(local_inv, 1:20)"), BREAKS, "MW_BIND_ERR",
        needs="rdma-memory"),
    Row("R26", "bogus completion", "device", ANY, BREAKS, "of a request that nobody has posted", needs="rdma-memory"),
    Row("R27", "atomics or immediate data swapped", NONE_YET, (), ("DET",), "the transport uses neither"),
)  # fmt: skip
