"""Trio shell. pyverbs.device: the list of devices, contexts and their queries, device memory.

Attributes that the emulated device has no opinion about are 0, as an adapter reports what it lacks. Owns device memory handles.
"""

import errno
import os
import socket
from types import SimpleNamespace
from typing import Final

from transport.rdma.device import Context as Handle
from transport.rdma.dm import DM as DeviceMemory  # noqa: N811 - a class
from transport.rdma.enums import EventType
from transport.rdma.errors import VerbsError
from transport.rdma.profiles import DeviceProfile
from transport.rdma.pyverbs import driver
from transport.rdma.pyverbs.addr import GID
from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError, PyverbsUserError, translated

__all__ = [
    "DM", "AllocDmAttr", "AsyncEvent", "Context", "Device", "get_device_list", "phys_state_to_str", "rdma_get_devices",
    "speed_to_str", "translate_link_layer", "translate_mtu", "translate_node_type", "width_to_str",
]  # fmt: skip

GID_TABLE: Final = 8
VENDOR_ID: Final = 0x4E46
ODP_ALL: Final = 0x3F


class Device:
    """One entry of the device list."""

    def __init__(self, name: str) -> None:
        device = driver.DEVICES[name]
        self.name = name.encode()
        self.node_type = int(device.profile.node_type)
        self.transport_type = 1 if device.profile.iwarp else 0
        self.index = device.lid
        self.guid = int.from_bytes(device.gid[8:], "big")

    def __str__(self) -> str:
        return f"Device {self.name.decode()}, node type {self.node_type}"


def get_device_list() -> list[Device]:
    """Return the devices of the process."""
    return [Device(name) for name in driver.DEVICES]


def rdma_get_devices() -> "list[Context]":
    """Return a context on each device, as librdmacm does."""
    return [Context(name=name) for name in driver.DEVICES]


class Context(PyverbsObject):
    """An open device; `cmd_fd` opens the same one again."""

    def __init__(self, name: str | None = None, cmd_fd: int | None = None, attr: object = None) -> None:
        super().__init__()
        self.handle: Handle
        self.objects: dict[int, object] = {}
        self.name: str = ""
        self.fd: int | None = None
        self.socket: socket.socket | None = None
        shared = None if cmd_fd is None else driver.contexts_by_fd.get(driver.inode_of(cmd_fd))
        if isinstance(shared, Context):
            self.handle = shared.handle
            self.imported = True
            self.objects = shared.objects
            self.name = shared.name
            self.fd = cmd_fd
            return
        if name is None:
            raise PyverbsUserError("a context needs the name of a device or a command descriptor of one")
        handle = driver.open_by_name(name)
        if handle is None:
            raise PyverbsRDMAError(f"Failed to find device {name}", errno.ENODEV)
        self.handle = handle
        self.imported = False
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.fd = self.socket.fileno()
        driver.contexts_by_fd[driver.inode_of(self.fd)] = self

    @property
    def cmd_fd(self) -> int:
        """The descriptor that stands for the open device."""
        assert self.fd is not None
        return self.fd

    @property
    def num_comp_vectors(self) -> int:
        """Completion vectors of the device."""
        return self.profile.num_comp_vectors

    @property
    def profile(self) -> DeviceProfile:
        """Capabilities of the device."""
        return self.handle.device.profile

    def remember(self, item: object) -> int:
        """Give an object a handle by which another context may import it."""
        number = len(self.objects) + 1
        self.objects[number] = item
        return number

    def destroy(self) -> None:
        """Close the device."""
        if self.imported:
            if self.fd is not None:
                os.close(self.fd)
            return
        assert self.socket is not None
        driver.contexts_by_fd.pop(driver.inode_of(self.cmd_fd), None)
        self.socket.close()
        with translated("Failed to close device"):
            self.handle.close()

    # ---- queries

    def query_device(self) -> SimpleNamespace:
        """Return the device's attributes."""
        profile = self.profile
        guid = self.handle.device.gid[8:]
        caps = 1 << 7 | (1 << 13 if profile.srq else 0) | 1 << 21 | (1 << 17 | 1 << 24 if profile.mw else 0)
        return SimpleNamespace(
            fw_version="1.0", fw_ver="1.0", node_guid=_guid(guid), sys_image_guid=_guid(guid), max_mr_size=profile.max_mr_size,
            page_size_cap=0xFFFFF000, vendor_id=VENDOR_ID, vendor_part_id=1, hw_ver=1, max_qp=profile.max_qp,
            max_qp_wr=profile.max_qp_wr, device_cap_flags=caps, max_sge=min(profile.max_send_sge, profile.max_recv_sge),
            max_sge_rd=profile.max_sge_rd, max_cq=profile.max_cq, max_cqe=profile.max_cqe, max_mr=profile.max_mr,
            max_pd=profile.max_pd, max_qp_rd_atom=profile.max_rd_atom, max_ee_rd_atom=0, max_res_rd_atom=profile.max_rd_atom * 64,
            max_qp_init_rd_atom=profile.max_rd_atom, max_ee_init_rd_atom=0, atomic_caps=0 if profile.iwarp else 1, max_ee=0,
            max_rdd=0, max_mw=profile.max_mw if profile.mw else 0, max_raw_ipv6_qps=0, max_raw_ethy_qp=0, max_mcast_grp=0,
            max_mcast_qp_attach=0, max_ah=profile.max_ah if profile.ud else 0, max_fmr=0, max_map_per_fmr=0,
            max_srq=profile.max_srq, max_srq_wr=profile.max_srq_wr, max_srq_sge=profile.max_srq_sge, max_pkeys=1,
            local_ca_ack_delay=15, phys_port_cnt=1,
        )  # fmt: skip

    def query_device_ex(self, ex_input: object = None) -> SimpleNamespace:
        """Return the extended attributes."""
        odp = ODP_ALL if self.profile.odp else 0
        attr = self.query_device()
        return SimpleNamespace(
            orig_attr=attr, comp_mask=0, max_dm_size=self.profile.dm_size, raw_packet_caps=0,
            device_cap_flags_ex=attr.device_cap_flags,
            odp_caps=SimpleNamespace(
                general_caps=3 if odp else 0, rc_odp_caps=odp, uc_odp_caps=0, ud_odp_caps=odp & 3, xrc_odp_caps=0
            ),
            tso_caps=SimpleNamespace(max_tso=0, supported_qpts=0), rss_caps=SimpleNamespace(supported_qpts=0, rx_hash_function=0),
            tm_caps=SimpleNamespace(max_rndv_hdr_size=0, max_num_tags=0, flags=0, max_ops=0, max_sge=0),
            completion_timestamp_mask=0, hca_core_clock=0, max_wq_type_rq=0,
            packet_pacing_caps=SimpleNamespace(qp_rate_limit_min=0, qp_rate_limit_max=0),
            pci_atomic_caps=SimpleNamespace(fetch_add=0, swap=0, compare_swap=0), phys_port_cnt_ex=1, phys_port_cnt=1,
            xrc_odp_caps=0,
        )  # fmt: skip

    def _check_port(self, port_num: int, what: str) -> None:
        if port_num != 1:
            raise PyverbsRDMAError(f"Failed to query {what} {port_num}", errno.EINVAL)

    def query_port(self, port_num: int) -> SimpleNamespace:
        """Return the attributes of a port.

        Raises: PyverbsRDMAError EINVAL for a port the device lacks.
        """
        self._check_port(port_num, "port")
        return SimpleNamespace(
            state=4, max_mtu=5, active_mtu=5, gid_tbl_len=GID_TABLE, port_cap_flags=1 << 16, max_msg_sz=1 << 31, bad_pkey_cntr=0,
            qkey_viol_cntr=0, pkey_tbl_len=1, lid=self.handle.device.lid, sm_lid=0, lmc=0, max_vl_num=1, sm_sl=0,
            subnet_timeout=0, init_type_reply=0, active_width=2, active_speed=32, active_speed_ex=0, phys_state=5, link_layer=2,
            flags=1, port_cap_flags2=0,
        )  # fmt: skip

    def query_gid(self, port_num: int, index: int) -> GID:
        """Return an entry of the GID table; only the first holds one."""
        self._check_port(port_num, "gid of port")
        return GID.of(self.handle.device.gid if index == 0 else bytes(16))

    def query_gid_type(self, port_num: int, index: int) -> int:
        """Return the kind of a GID: RoCE v2."""
        self._check_port(port_num, "gid type of port")
        return 1

    def query_gid_ex(self, port_num: int, gid_index: int, flags: int = 0) -> SimpleNamespace:
        """Return an entry of the GID table.

        Raises: PyverbsRDMAError ENODATA for one that is empty.
        """
        self._check_port(port_num, "gid of port")
        if gid_index:
            raise PyverbsRDMAError(f"Failed to query gid {gid_index}", errno.ENODATA)
        return SimpleNamespace(gid=self.query_gid(1, 0), gid_index=0, port_num=1, gid_type=2, ndev_ifindex=0)

    def query_gid_table(self, max_entries: int, flags: int = 0) -> list[SimpleNamespace]:
        """Return the entries that are not empty; here alone the error's code is negative.

        Raises: PyverbsRDMAError -EINVAL for too few entries.
        """
        if max_entries < 1:
            raise PyverbsRDMAError("Failed to query gid table", -errno.EINVAL)
        return [self.query_gid_ex(1, 0)]

    def query_pkey(self, port_num: int, index: int) -> int:
        """Return the only partition key."""
        self._check_port(port_num, "pkey of port")
        return 0xFFFF

    def get_pkey_index(self, port_num: int, pkey: int) -> int:
        """Return the index of a partition key."""
        self._check_port(port_num, "pkey index of port")
        if pkey & 0x7FFF != 0x7FFF:
            raise PyverbsRDMAError("Failed to get pkey index", errno.EINVAL)
        return 0

    def get_async_event(self) -> "AsyncEvent":
        """Wait for an asynchronous event; it must be acknowledged by `ack`."""
        while (event := self.handle.get_async_event()) is None:
            driver.wait_a_little()
        return AsyncEvent(self, event)


class AsyncEvent:
    """An asynchronous event."""

    def __init__(self, context: Context, event: object) -> None:
        self.context = context
        self.event = event

    @property
    def event_type(self) -> EventType:
        """What happened."""
        kind: EventType = self.event.type  # type: ignore[attr-defined]
        return kind

    def ack(self) -> None:
        """Acknowledge the event."""
        self.context.handle.ack_async_event(self.event)  # type: ignore[arg-type]


class AllocDmAttr:
    """What device memory is asked for: bytes, log2 of its alignment."""

    def __init__(self, length: float, log_align_req: int = 0, comp_mask: int = 0) -> None:
        self.length = int(length)
        self.log_align_req = log_align_req
        self.comp_mask = comp_mask


class DM(PyverbsObject):
    """Device memory, or an import of another context's by its handle."""

    rank = 8

    def __init__(self, context: Context, dm_attr: AllocDmAttr | None = None, handle: int | None = None) -> None:
        super().__init__()
        self.context = context
        self.imported = handle is not None
        if handle is not None:
            shared = context.objects.get(handle)
            if not isinstance(shared, DeviceMemory):
                raise PyverbsRDMAError("Failed to import DM", errno.ENOENT)
            self.dm = shared
            self.handle = handle
            return
        assert dm_attr is not None
        text = f"Failed to allocate device memory of size {dm_attr.length}. Max available size {context.profile.dm_size}"
        if dm_attr.comp_mask:
            raise PyverbsRDMAError(text, errno.EINVAL)
        with translated(text):
            self.dm = context.handle.alloc_dm(dm_attr.length)
        self.handle = context.remember(self.dm)
        self.hang_on(context)

    def copy_to_dm(self, dm_offset: int, data: bytes, length: int) -> None:
        """Write to the device memory."""
        try:
            self.dm.copy_to(dm_offset, data[:length])
        except VerbsError as error:
            raise PyverbsRDMAError(f"Failed to copy to dm ({error.rule})", error.errno) from error

    def copy_from_dm(self, dm_offset: int, length: int) -> bytes:
        """Read from the device memory."""
        with translated("Failed to copy from dm"):
            return self.dm.copy_from(dm_offset, length)

    def unimport(self) -> None:
        """Give an import up; the memory stays with its owner."""
        self.closed = True

    def destroy(self) -> None:
        """Free the memory."""
        if not self.imported:
            with translated("Failed to free dm"):
                self.dm.free()


def _guid(raw: bytes) -> str:
    return ":".join(raw[index : index + 2].hex() for index in range(0, 8, 2))


def _named(table: dict[int, str], value: int) -> str:
    return table.get(value, "Invalid")


def translate_mtu(mtu: int) -> str:
    """Name an MTU code."""
    return f"{128 << mtu} ({mtu})" if 1 <= mtu <= 5 else "Invalid"


def translate_link_layer(layer: int) -> str:
    """Name a link layer."""
    return _named({0: "Unspecified", 1: "InfiniBand", 2: "Ethernet"}, layer)


def translate_node_type(node_type: int) -> str:
    """Name a node type."""
    return _named({1: "CA", 2: "Switch", 3: "Router", 4: "RNIC", 5: "USNIC", 6: "USNIC UDP"}, node_type)


def phys_state_to_str(state: int) -> str:
    """Name a port's physical state."""
    names = {1: "Sleep", 2: "Polling", 3: "Disabled", 4: "Port configuration training", 5: "Link up", 6: "Link error recovery"}
    return _named(names, state)


def width_to_str(width: int) -> str:
    """Name a link width."""
    return _named({1: "1X", 2: "4X", 4: "8X", 8: "12X", 16: "2X"}, width)


def speed_to_str(speed: int) -> str:
    """Name a link speed."""
    return _named(
        {0: "0.0 Gbps", 1: "2.5 Gbps", 2: "5.0 Gbps", 4: "5.0 Gbps", 8: "10.0 Gbps", 16: "14.0 Gbps", 32: "25.0 Gbps"}, speed
    )
