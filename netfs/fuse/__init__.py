"""netfs as a mounted folder: the client behind the kernel's FUSE, one mount in a process of its own."""
