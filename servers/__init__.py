"""The server: sessions, operations and stores; it never holds a key."""
