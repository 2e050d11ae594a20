"""The proxy: what passes is whole, what a plan says happens to real sockets, what it cannot do it refuses."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from transport.address import Address
from trials.faults.plan import Plan, PlanError
from trials.proxy import Proxy, check_plan

Handle = Callable[[trio.SocketStream], Awaitable[None]]


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes, and end when it ends."""
    async with stream:
        try:
            async for chunk in stream:
                await stream.send_all(chunk)
        except trio.BrokenResourceError:
            return


def address_of(listener: trio.SocketListener) -> Address:
    return Address(*listener.socket.getsockname()[:2])


@asynccontextmanager
async def through(plan: str, handle: Handle = echo) -> AsyncIterator[tuple[Callable[[], Awaitable[trio.SocketStream]], Proxy]]:
    """Run a server and a proxy before it. Gives: what connects through it, and the proxy."""
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        (server,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        (front,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(partial(trio.serve_listeners, handle, [server]))
        stack.push_async_callback(front.aclose)
        proxy = Proxy(address_of(server), Plan.from_toml(plan), 5, lambda _: None)
        await nursery.start(proxy.serve, front)
        try:
            with trio.fail_after(20):
                yield partial(trio.open_tcp_stream, "127.0.0.1", address_of(front).port), proxy
        finally:
            nursery.cancel_scope.cancel()


async def sent_and_back(stream: trio.SocketStream, data: bytes) -> bytes:
    """Send all, end that direction, and receive to the end."""
    got = bytearray()
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(send)
        async for chunk in stream:
            got += chunk
    return bytes(got)


async def test_without_faults_everything_passes() -> None:
    data = bytes(range(256)) * 4000
    async with through("") as (connect, proxy):
        for _ in range(3):
            assert await sent_and_back(await connect(), data) == data
        assert proxy.connections == 3
        assert proxy.passed == 6 * len(data)
        assert proxy.injector.ids == {}


async def test_slices_are_put_together_again() -> None:
    data = bytes(range(256)) * 20
    async with through("[knobs]\nslice = 100\n") as (connect, _):
        assert await sent_and_back(await connect(), data) == data


async def test_a_reset_reaches_both_and_the_next_connection_lives() -> None:
    plan = '[[fault]]\nid = "T14"\nwhen = "after_bytes(1000)"\ntarget = "client1"\n'
    ended: list[str] = []

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                async for chunk in stream:
                    await stream.send_all(chunk)
                ended.append("in order")
            except trio.BrokenResourceError:
                ended.append("broken")

    async with through(plan, handle) as (connect, proxy):
        assert await sent_and_back(await connect(), bytes(5000)) == bytes(5000)
        with pytest.raises((trio.BrokenResourceError, BaseExceptionGroup)):
            await sent_and_back(await connect(), bytes(5000))
        assert proxy.injector.ids == {"T14": 1}
        assert await sent_and_back(await connect(), bytes(5000)) == bytes(5000)
        while len(ended) < 3:
            await trio.lowlevel.checkpoint()
        assert sorted(ended) == ["broken", "in order", "in order"]


async def test_a_delay_takes_its_time() -> None:
    plan = '[[fault]]\nid = "T4"\nwhen = "nth(send, 1)"\nargs = { delay_s = 0.3, for_s = 9.0, way = "there" }\n'
    async with through(plan) as (connect, proxy):
        began = trio.current_time()
        assert await sent_and_back(await connect(), b"x") == b"x"
        assert 0.3 <= trio.current_time() - began < 2
        assert proxy.injector.ids == {"T4": 1}


async def test_nobody_upstream_is_a_broken_connection() -> None:
    async with trio.open_nursery() as nursery:
        (front,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        (nobody,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        where = address_of(nobody)
        await nobody.aclose()
        await nursery.start(Proxy(where, Plan(), 1, lambda _: None).serve, front)
        stream = await trio.open_tcp_stream("127.0.0.1", address_of(front).port)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()
        nursery.cancel_scope.cancel()
    await front.aclose()


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ('[[fault]]\nid = "S6"\nwhen = "nth(read, 1)"\n', r"fault 1: S6 \(.*\) is not of the network"),
        ('[[fault]]\nid = "T16"\nwhen = "when(unsafe, 1)"\n', r"fault 1: when\(unsafe, …\) looks into a client"),
        ("[knobs]\ncredits = 1\n", "knob credits is not of the network; a proxy has capacity and slice"),
    ],
)
def test_what_a_proxy_cannot_do_is_refused(plan: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        check_plan(Plan.from_toml(plan))


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """A server in a process, a proxy in another, and `netfs ls` through both."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[[fault]]\nid = "T4"\nwhen = "nth(send, 1)"\nargs = { delay_s = 0.2, for_s = 1.0, way = "both" }\n')
    netfs = [sys.executable, "-m", "netfs"]
    serve = subprocess.Popen(
        [*netfs, "serve", "--memory", "--listen", "127.0.0.1:0", "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert serve.stdout is not None
        upstream = json.loads(serve.stdout.readline())["url"].removeprefix("netfs+tcp://").rstrip("/")
        upstream = upstream.removeprefix("netfs://").rstrip("/")
        command = ["proxy", "--listen", ":0", "--upstream", upstream, "--plan", str(plan), "--json"]
        proxy = subprocess.Popen([*netfs, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert proxy.stderr is not None
        where = proxy.stderr.readline().split()[2].rstrip(",")
        done = subprocess.run([*netfs, "ls", f"netfs+tcp://{where}/"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        proxy.send_signal(signal.SIGINT)  # what it has seen, it says whoever ends it
        out, _ = proxy.communicate(timeout=60)
        found = json.loads(out)
        assert found["connections"] >= 1 and found["bytes"] > 0
        assert found["fired"] == {"T4": 1} and found["never_fired"] == []
        idle = subprocess.run([*netfs, *command, "--time", "0.1"], capture_output=True, text=True, check=True)
        assert json.loads(idle.stdout) == {"connections": 0, "bytes": 0, "fired": {}, "never_fired": ["T4"]}
    finally:
        serve.terminate()
        serve.communicate()
