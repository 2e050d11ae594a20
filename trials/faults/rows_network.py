"""Trio shell. The catalogue's rows of layer T: what a network does to connections. Owns no memory."""

from typing import Final

from trials.faults.rows import Row

__all__ = ["NETWORK"]

NETWORK: Final = (
    Row(
        "T14", "reset before, during or after a send", "link", ("nth(send, 1:40)", "after_bytes(1:60000)"),
        ("RECONN", "E(ETIMEDOUT)", "?"), "the link ends with ECONNRESET; what is under way is lost",
        {"side": ["before", "during", "after"]}, needs="link",
    ),
)  # fmt: skip
