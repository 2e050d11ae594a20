"""The server: operations and stores; it never holds a key."""

from typing import TYPE_CHECKING

from transport.on_demand import on_demand

if TYPE_CHECKING:
    from servers.server import Server, Serving, serve
    from servers.stores.directory import DirectoryStore
    from servers.stores.memory import MemoryStore
else:
    __getattr__ = on_demand(
        __name__,
        {
            "DirectoryStore": "servers.stores.directory",
            "MemoryStore": "servers.stores.memory",
            "Server": "servers.server",
            "Serving": "servers.server",
            "serve": "servers.server",
        },
    )

__all__ = ["DirectoryStore", "MemoryStore", "Server", "Serving", "serve"]
