"""Sans-IO. Modules of pyverbs for what is not emulated: any class they are asked for says EOPNOTSUPP when it is used.

Programs import them whether they need them or not; an honest EOPNOTSUPP is how a driver declares its scope. Owns no memory.
"""

import errno
from types import ModuleType
from typing import Final

from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError

__all__ = ["NAMES", "UnsupportedModule"]

NAMES: Final = (
    "dma_util", "dmabuf", "flow", "providers", "providers.efa", "providers.efa.efa_enums", "providers.efa.efadv",
    "providers.mlx5", "providers.mlx5.dr_action", "providers.mlx5.dr_domain", "providers.mlx5.dr_matcher",
    "providers.mlx5.dr_rule",
    "providers.mlx5.dr_table", "providers.mlx5.mlx5_enums", "providers.mlx5.mlx5_vfio", "providers.mlx5.mlx5dv",
    "providers.mlx5.mlx5dv_crypto", "providers.mlx5.mlx5dv_dmabuf", "providers.mlx5.mlx5dv_flow", "providers.mlx5.mlx5dv_mkey",
    "providers.mlx5.mlx5dv_objects", "providers.mlx5.mlx5dv_sched", "spec", "wq", "xrcd",
)  # fmt: skip


class UnsupportedModule(ModuleType):
    """A module whose every name is a class that refuses to be made; in a module of enumerations it is 0."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        value: object = 0 if self.__name__.endswith("_enums") else _refusing(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


def _refusing(title: str) -> type:
    def refuse(self: object, *args: object, **kwargs: object) -> None:
        raise PyverbsRDMAError(f"{title} is not emulated", errno.EOPNOTSUPP)

    def describe(self: object, *args: object, **kwargs: object) -> None:
        """Take any description: refusing is left to what is made from it."""

    name = title.rpartition(".")[2]
    return type(name, (), {"__init__": describe if name.endswith("Attr") else refuse, "__doc__": "Not emulated."})
