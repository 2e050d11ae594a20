"""What the tests of the client's front doors share: a server with a store in memory, in a thread of its own."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve, and return the URL without a path. Modules that need another server have their own."""
    import servers
    from netfs.fsspec.portal import Held, Portal
    from netfs.fsspec.portal import portal as process_portal

    portal = Portal()

    async def start() -> tuple[Held, str]:
        held = Held(portal)
        server = await held.open(servers.serve(servers.MemoryStore()))
        return held, server.url.removesuffix("/")

    held, address = portal.call(start)
    yield address
    process_portal().close()  # other tests have the process to themselves
    portal.call(held.aclose)
    portal.close()
