"""The server: operations and stores; it never holds a key."""

from servers.server import Server, Serving, serve
from servers.stores.directory import DirectoryStore
from servers.stores.memory import MemoryStore

__all__ = ["DirectoryStore", "MemoryStore", "Server", "Serving", "serve"]
