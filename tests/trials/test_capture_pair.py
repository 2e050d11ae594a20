"""What Wireshark shows of a filesystem over RDMA: MPA, DDP, RDMAP with SMB Direct inside, or RoCEv2, and no complaint."""

from pathlib import Path

import pytest

from tests.rdma.captured import complaints, needs_tshark, shown
from transport.rdma import open_capture
from trials.pairs import pair

CONTENT = bytes(range(256)) * 4096


async def write_and_read(path: Path, transport: str, processes: int) -> None:
    with open_capture(path) as capture:
        async with pair(transport, capture=capture, processes=processes) as p:  # type: ignore[arg-type]
            async with await p.client.open("/f", "w", direct=True) as file:
                await file.write(CONTENT)
            async with await p.client.open("/f", direct=True) as file:
                assert await file.read(len(CONTENT)) == CONTENT


@needs_tshark
@pytest.mark.slow
async def test_stream_between_processes_is_smb_direct_in_iwarp(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    await write_and_read(path, "rdma-stream", 2)
    assert not complaints(path)
    layers = {name for (name,) in shown(path, "frame.protocols", where="smb_direct")}
    assert layers and all(":tcp:iwarp_mpa:iwarp_ddp_rdmap:smb_direct" in name for name in layers)
    negotiated = shown(path, "smb_direct.version.min", "smb_direct.version.max", where="smb_direct.negotiate_request")
    assert negotiated == [("0x0100", "0x0100")]
    answered = shown(path, "smb_direct.version.negotiated", "smb_direct.status", where="smb_direct.negotiate_response")
    assert answered == [("0x0100", "0x00000000")]
    messages = shown(path, "smb_direct.data_offset", "smb_direct.data_length", where="smb_direct.data_message")
    assert len(messages) > 10 and {offset for offset, length in messages if length != "0"} == {"24"}
    moved = sum(int(length) for (length,) in shown(path, "iwarp_mpa.ulpdulength", where="iwarp_rdma.opcode in {0, 2}"))
    assert moved >= 2 * len(CONTENT)


@needs_tshark
@pytest.mark.slow
async def test_memory_fabric_is_rocev2(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    await write_and_read(path, "rdma-memory", 1)
    assert not complaints(path)
    opcodes = {int(opcode) for (opcode,) in shown(path, "infiniband.bth.opcode")}
    # SENDs, some of which invalidate; WRITEs and READs of many packets; acknowledgements.
    assert {0x04, 0x17, 0x06, 0x07, 0x08, 0x0C, 0x0D, 0x0E, 0x0F, 0x11} <= opcodes
    assert {source for (source,) in shown(path, "ip.src")} == {"10.0.0.1", "10.0.0.2"}
