"""The oracle of plain bytes: what may be found at a place, by a comparison that is slow and plain."""

import random

from trials.workloads.bytes_model import BytesModel


def first_wrong(model: BytesModel, pos: int, got: bytearray) -> int | None:
    """Look at one byte after another."""
    for at, value in enumerate(got, pos):
        here = [content[at - start] for start, content in model.doubts if start <= at < start + len(content)]
        if value not in {*model.data[at : at + 1], *here}:
            return at
    return None


def test_what_may_be_found() -> None:
    rng = random.Random(3)
    verdicts = set()
    for _ in range(300):
        model = BytesModel()
        model.put(0, rng.randbytes(60))
        for _ in range(rng.randrange(4)):
            model.may_have_put(rng.randrange(50), rng.randbytes(rng.randrange(1, 20)))
        pos = rng.randrange(40)
        got = bytearray(model.data[pos : pos + 20])
        for start, content in model.doubts:
            for at in range(max(pos, start), min(pos + len(got), start + len(content))):
                got[at - pos] = rng.choice((got[at - pos], content[at - start]))
        if rng.random() < 0.5:
            got[rng.randrange(len(got))] ^= 1 << rng.randrange(8)
        found = model.check(pos, len(got), got)
        assert found == first_wrong(model, pos, got)
        verdicts.add(found is None)
    assert verdicts == {True, False}
