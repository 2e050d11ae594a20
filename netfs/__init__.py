"""The client: the filesystem API, the request library, the caches and the front ends."""
