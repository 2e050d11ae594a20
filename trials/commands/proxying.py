"""Trio shell. `netfs proxy`: other people's programs over a TCP connection that a plan makes bad, in real time.

Owns no memory.
"""

import socket
import time
from pathlib import Path

import trio

from netfs.cli.host import CommandError, Exit, Host, failing
from transport.address import Address, parse_address
from trials.faults.plan import Plan, PlanError
from trials.proxy import Proxy, check_plan

__all__ = ["run_proxy"]


async def run_proxy(host: Host, listen: str, upstream: str, plan: str, seed: int, at_most_s: float) -> None:
    """Listen, carry, and tell of each fault, until the time is over or somebody ends it."""
    here, there, what = address_of(listen), address_of(upstream), plan_of(plan)
    if here.socket:
        raise CommandError(Exit.USAGE, f"--listen {listen}: a proxy listens on TCP, at host:port")

    def told(text: str) -> None:
        host.say(f"{time.perf_counter() - began:9.3f} {text.removeprefix('fault ')}")

    proxy = Proxy(there, what, seed, told)
    with failing(Exit.LOCAL, listen):
        (listener, *others) = await trio.open_tcp_listeners(here.port, host=here.host)
        for other in others:
            await other.aclose()
    began = time.perf_counter()
    async with listener:
        host.note(f"listening at {name_of(listener)}, for {there}; seed {seed}")
        try:
            with trio.move_on_after(at_most_s):
                await proxy.serve(listener)
        finally:
            never = sorted({fault.id for fault in what} - set(proxy.injector.ids))
            fired = dict(sorted(proxy.injector.ids.items()))
            value = {"connections": proxy.connections, "bytes": proxy.passed, "fired": fired, "never_fired": never}
            lines = [f"{proxy.connections} connections, {proxy.passed:,} bytes"]
            lines += ["took effect: " + ", ".join(f"{name} {count}" for name, count in fired.items())] if fired else []
            lines += ["never: " + ", ".join(never)] if never else []
            host.emit(value, "\n".join(lines))


def address_of(text: str) -> Address:
    """Read an address; without a host it is one of this machine alone."""
    try:
        return parse_address(f"127.0.0.1{text}" if text.startswith(":") else text)
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error)) from None


def plan_of(path: str) -> Plan:
    """Read a plan of the network."""
    with failing(Exit.LOCAL, path):
        text = Path(path).read_text("utf-8", errors="replace")
    try:
        plan = Plan.from_toml(text)
        check_plan(plan)
    except PlanError as error:
        raise CommandError(Exit.USAGE, f"{path}: {error}") from None
    return plan


def name_of(listener: trio.SocketListener) -> str:
    """Return the address a listener has got."""
    name = listener.socket.getsockname()
    return str(Address(name[0], name[1])) if listener.socket.family in {socket.AF_INET, socket.AF_INET6} else str(name)
