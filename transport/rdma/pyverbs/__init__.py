"""pyverbs over the emulated device: the same names, blocking calls, integer addresses; `install()` puts it in place."""

from transport.rdma.pyverbs.facade import install

__all__ = ["install"]
