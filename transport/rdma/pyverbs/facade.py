"""Trio shell. Put the façade under the name `pyverbs` for this process: `transport.rdma.pyverbs.install()`.

A program that imports pyverbs then runs on the emulated device without being changed. Owns no memory.
"""

import sys
from types import ModuleType
from typing import Final

from transport.rdma.pyverbs import (
    addr,
    base,
    cm_enums,
    cmid,
    cq,
    device,
    driver,
    enums,
    fork,
    mem_alloc,
    mr,
    pd,
    pyverbs_error,
    qp,
    srq,
    strings,
    wr,
)
from transport.rdma.pyverbs.unsupported import NAMES, UnsupportedModule

__all__ = ["install"]

MODULES: Final[dict[str, ModuleType]] = {
    "addr": addr, "base": base, "cm_enums": cm_enums, "librdmacm_enums": cm_enums,
    "cmid": cmid, "cq": cq, "device": device,
    "enums": enums, "libibverbs_enums": enums, "fork": fork, "mem_alloc": mem_alloc, "mr": mr, "pd": pd,
    "pyverbs_error": pyverbs_error, "qp": qp, "srq": srq, "utils": strings, "wr": wr,
}  # fmt: skip

_package: Final = ModuleType("pyverbs", "pyverbs over an emulated device.")
_package.__path__ = []


def install(profile: str = "connectx") -> None:
    """Make `import pyverbs` find the façade, over one device `emu0` of a named profile.

    Raises: RuntimeError when another pyverbs has been imported already; KeyError for an unknown profile.
    """
    present = sys.modules.get("pyverbs")
    if present is not None and present is not _package:
        raise RuntimeError("another pyverbs has been imported already")
    driver.use_profile(profile)
    sys.modules["pyverbs"] = _package
    for name, module in MODULES.items():
        _put(f"pyverbs.{name}", module)
    for name in NAMES:
        module = UnsupportedModule(f"pyverbs.{name}", "Not emulated.")
        module.__path__ = []
        _put(f"pyverbs.{name}", module)


def _put(title: str, module: ModuleType) -> None:
    sys.modules[title] = module
    parent, _, child = title.rpartition(".")
    setattr(sys.modules[parent], child, module)
