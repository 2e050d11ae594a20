"""Trio shell. The catalogue's rows of layer T: what a network does to connections. Owns no memory."""

import errno
from typing import Final

from trials.faults.rows import Row

__all__ = ["NETWORK"]

SENDS: Final = ("nth(send, 1:60)",)
ANY_TIME: Final = ("nth(send, 1:60)", "at(0.0002:0.012)")
BORNE: Final = ("OK", "RECONN", "E(ETIMEDOUT)", "?")

NETWORK: Final = (
    Row("T1", "partial send", "link", (*SENDS, "p(send, 0.02:0.2)"), ("OK",), "a send takes only so many bytes",
        {"length": (1, 40)}, needs="link"),
    Row("T2", "short receive", "link", ("nth(recv, 1:60)", "p(recv, 0.02:0.2)"), ("OK",), "a receipt gives only so many bytes",
        {"length": (1, 40)}, needs="link"),
    Row("T3", "slicing", "link", ANY_TIME, ("OK",), "for a while each call moves only so many bytes",
        {"length": (1, 60), "for_s": (0.0005, 0.005), "way": ["there", "back", "both"]}, needs="link"),
    Row("T4", "delay", "link", ANY_TIME, BORNE, "bytes take longer, for a while",
        {"delay_s": (0.001, 2.0), "for_s": (0.01, 1.0), "way": ["there", "back", "both"]}, needs="link"),
    Row("T5", "jitter", "link", ANY_TIME, BORNE, "each piece takes a time of its own, in order",
        {"jitter_s": (0.0005, 0.3), "for_s": (0.01, 1.0), "way": ["there", "back", "both"]}, needs="link"),
    Row("T6", "bandwidth limit", "link", ANY_TIME, BORNE, "so many bytes a second, for a while",
        {"rate": (20_000, 2_000_000), "for_s": (0.01, 1.0), "way": ["there", "back", "both"]}, needs="link"),
    Row("T7", "slow drip", "link", ANY_TIME, BORNE, "a few bytes a second, for a while",
        {"rate": (50, 2000), "for_s": (0.05, 2.0), "way": ["there", "back", "both"]}, needs="link"),
    Row("T8", "reordering across connections", "link", ANY_TIME, BORNE, "one channel of a session takes longer than the others",
        {"delay_s": (0.001, 0.5), "for_s": (0.05, 1.0), "way": ["there", "back"]}, needs="link", knobs={"channels": 2}),
    Row("T9", "message dropped", "handler", ("nth(request, 1:60)",), BORNE,
        "a request is never answered, and the connection ends a while later", {"after_s": (0.0, 2.0)}, needs="link"),
    Row("T10", "request duplicated", "handler", ("nth(request, 1:60)", "p(request, 0.01:0.1)"), ("OK",),
        "the server is given a request without payload twice"),
    Row("T11", "late reply after a retry", "handler", ("nth(request, 1:60)",), BORNE,
        "a request is done, the connection ends before the answer leaves, and the client asks again", needs="link"),
    Row("T12", "corruption of payload", "link", ("nth(send, 1:60)", "p(send, 0.02:0.2)"), ("DET", "E(EBADMSG)", *BORNE),
        "one bit of ciphertext is flipped; what is not encrypted has TLS, or MPA's CRC: tests/transport/test_tls.py",
        needs="encrypt stream"),
    Row("T13", "corruption of a header", "link", ("nth(send, 1:60)",), BORNE,
        "one bit of a frame's check word is flipped", needs="stream"),
    Row("T14", "reset before, during or after a send", "link", (*SENDS, "after_bytes(1:60000)"), BORNE,
        "the link ends with ECONNRESET; what is under way is lost", {"side": ["before", "during", "after"]}, needs="link"),
    Row("T15", "FIN in the middle of a frame", "link", SENDS, BORNE, "half of a send leaves, then the direction ends",
        needs="link"),
    Row("T16", "FIN between frames", "link", ("at(0.0002:0.012)",), BORNE, "a direction ends where nothing is half sent",
        {"way": ["there", "back", "both"]}, needs="link"),
    Row("T17", "half-open", "link", ANY_TIME, BORNE,
        "what is sent is lost from now on, and nobody is told: keepalive must notice",
        needs="link"),
    Row("T18", "blackhole one way", "link", ANY_TIME, BORNE, "nothing arrives in one direction, for a while",
        {"for_s": (0.01, 30.0), "way": ["there", "back"]}, needs="link"),
    Row("T19", "blackhole both ways", "link", ANY_TIME, BORNE, "nothing arrives, for a while",
        {"for_s": (0.01, 30.0), "way": "both"}, needs="link"),
    Row("T20", "connect refused or slow", "link", ("nth(connect, 1:2)",), BORNE,
        "for a while each attempt to connect again fails, the first one perhaps late",
        {"for_s": (0.01, 3.0), "slow_s": [0.0, 0.0, 1.0]}, needs="link", brings=("T23",)),
    Row("T21", "reconnect storm", "link", ("at(0.0002:0.012)",), BORNE, "links are reset again and again",
        {"times": (2, 6), "pause_s": (0.001, 0.05)}, needs="link"),
    Row("T22", "unread peer", "link", ANY_TIME, BORNE, "one side reads nothing for a while, until the other's window is full",
        {"for_s": (0.05, 5.0), "way": ["there", "back"]}, needs="link"),
    Row("T23", "one channel of many dies", "link", ("at(0.0002:0.012)",), BORNE, "the newest link is reset, the others live",
        needs="link", knobs={"channels": 2}),
    Row("T24", "swizzle-clog", "link", ("at(0.0002:0.012)",), BORNE,
        "links are clogged one after the other, and let go in another order", {"for_s": (0.1, 3.0)}, needs="link"),
    Row("T25", "no descriptors, no buffers", "link", ("nth(connect, 1:2)",), BORNE,
        "an attempt to connect again fails with EMFILE",
        {"for_s": (0.01, 1.0), "errno": [errno.EMFILE, errno.ENOBUFS]}, needs="link", brings=("T14",)),
    Row("T26", "handshake interrupted", "link", ("nth(connect, 1:2)",), BORNE,
        "a new link is reset within its first bytes: the hello, or the joining of the session", needs="link", brings=("T14",)),
)  # fmt: skip
