"""A43, by hand: does the time of a refusal tell what was wrong? `make timing`; not a test, since machines are busy.

Each kind of refusal is measured 10,000 times, in turn with the others, and its median set beside that of the first.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

from crypto.aead import Aead, BadTag, Suite
from crypto.errors import CryptoError
from crypto.keys import VolumeKey
from crypto.record import Record, open_record, seal_record
from crypto.slots import RawKey
from crypto.volume import new_volume, unlock

SAMPLES = 10_000
KEY = VolumeKey(os.urandom(32))


def flipped(data: bytes, at: int) -> bytes:
    """Return the data with a bit of one byte changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def refusal(call: Callable[[], object]) -> Callable[[], None]:
    """Return a call that must be refused."""

    def run() -> None:
        try:
            call()
        except (BadTag, CryptoError):
            return
        raise AssertionError("it was accepted")

    return run


def blocks() -> dict[str, Callable[[], None]]:
    """A block whose tag is wrong, in its first byte, its last, or in the ciphertext."""
    aead, nonce, out = Aead(Suite.AES_256_GCM, os.urandom(32)), os.urandom(12), bytearray(4096 + 16)
    aead.encrypt_into(nonce, bytes(4096), b"", memoryview(out))
    dest = memoryview(bytearray(4096))
    kinds = {"ciphertext": 0, "last of ciphertext": 4095, "first of tag": 4096, "last of tag": 4111}
    return {
        f"block: {name}": refusal(partial(aead.decrypt_into, nonce, flipped(bytes(out), at), b"", dest))
        for name, at in kinds.items()
    }


def records() -> dict[str, Callable[[], None]]:
    """A record whose seal is wrong, at its beginning or its end."""
    sealed = seal_record(KEY, Record(b"i" * 16, os.urandom(32), Suite.AES_256_GCM, 14), os.urandom(24))
    return {
        f"record: byte {at}": refusal(partial(open_record, KEY, flipped(sealed, at)))
        for at in (80, len(sealed) - 20, len(sealed) - 1)
    }


def secrets() -> dict[str, Callable[[], None]]:
    """A wrong key file, which differs from the right one in its first or its last byte."""
    right = os.urandom(32)
    header = new_volume(RawKey(right), os.urandom)
    return {f"key file: byte {at}": refusal(partial(unlock, header, RawKey(flipped(right, at)), pinned=None)) for at in (0, 31)}


def main() -> None:
    for kinds in (blocks(), records(), secrets()):
        times: dict[str, list[int]] = {name: [] for name in kinds}
        for _ in range(SAMPLES):
            for name, call in kinds.items():
                began = time.perf_counter_ns()
                call()
                times[name].append(time.perf_counter_ns() - began)
        first = None
        for name, taken in times.items():
            median, spread = statistics.median(taken), statistics.quantiles(taken, n=4)
            first = median if first is None else first
            ratio = f"{median / first:.3f} of the first"
            print(f"{name:<28} median {median:9,.0f} ns  {ratio}  quartiles {spread[0]:,.0f} to {spread[2]:,.0f}")  # noqa: T201


if __name__ == "__main__":
    main()
