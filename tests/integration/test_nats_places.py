"""Every way to reach NATS, and what does not lead there: passwords, TLS, clusters."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from random import Random
from typing import TYPE_CHECKING

import nats as client
import pytest

from tests.integration.nats_links import (
    KEPT,
    LossyLink,
    Running,
    broker_at,
    publish,
    store_at,
)
from tests.servers import free_port
from tests.services import nats
from tests.services.nats_keys import USER, Key, Operator
from wirebell.errors import BrokerUnavailable, ConfigError
from wirebell.model import ChannelOptions, ClientInfo, History, PublishOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wirebell.interfaces import HistorySlice
    from wirebell.model import Published

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[nats.Cluster]:
    """A cluster for those who leave it as it was."""
    with nats.cluster() as started:
        yield started


async def start_error(url: str) -> Exception:
    """Return why a broker and a presence store do not start; both for the same reason."""
    errors: list[Exception] = []
    for run in (broker_at, store_at):
        with pytest.raises((BrokerUnavailable, ConfigError)) as raised:
            async with run(url):
                pass
        errors.append(raised.value)
    assert type(errors[0]) is type(errors[1])
    return errors[0]


async def test_nobody_there() -> None:
    """A port on which nobody listens: the host and port are named, and no password."""
    port = free_port()

    error = await start_error(f"nats://ann:secret@127.0.0.1:{port}")

    assert isinstance(error, BrokerUnavailable)
    assert f"NATS at 127.0.0.1:{port}: it cannot be reached" in str(error)
    assert "secret" not in str(error)


async def test_password() -> None:
    """With the password it works; without, or with another one, it says so."""
    with nats.single(password="p@ss,word/") as server:
        right = f"nats://ann:p%40ss%2Cword%2F@127.0.0.1:{server.port}"
        async with broker_at(right) as running:
            await publish(running, "a", b"1")
        for url in (f"nats://127.0.0.1:{server.port}", right.replace("word", "secret")):
            error = await start_error(url)
            assert isinstance(error, ConfigError)
            assert "refuses user and password" in str(error)
            assert "secret" not in str(error)


async def test_token() -> None:
    """A token stands where a user would."""
    with nats.single(token="hush") as server:
        async with broker_at(server.url) as running:
            await publish(running, "a", b"1")


async def test_seed(tmp_path: Path) -> None:
    """A file with a user's seed opens a server that knows the key; another one does not."""
    known, unknown = Key(USER), Key(USER)
    for name, key in (("known", known), ("unknown", unknown)):
        (tmp_path / name).write_text(f"{key.seed}\n")
    config = f"authorization {{ users = [ {{ nkey: {known.public} }} ] }}"
    with nats.single(config=config) as server:
        url = f"nats://127.0.0.1:{server.port}?credentials={tmp_path}"
        async with broker_at(f"{url}/known") as running, store_at(f"{url}/known") as store:
            await publish(running, "a", b"1")
            await store.add("a", ClientInfo("1"), ttl_seconds=60)
        for refused, words in (
            (f"{url}/unknown", "refuses the credentials '.*unknown'"),
            (server.url, r"\?credentials="),
        ):
            error = await start_error(refused)
            assert isinstance(error, ConfigError)
            assert re.search(words, str(error)), error
            assert unknown.seed not in str(error)


async def test_credentials(tmp_path: Path) -> None:
    """A ``.creds`` file opens a server that knows an operator only; it is read at each connect."""
    operator, file = Operator(), tmp_path / "app.creds"
    good = operator.create_credentials()
    with nats.single(config=operator.config) as server:
        async with LossyLink(server.port) as link:
            url = f"{link.url}?credentials={file}"
            file.write_text(operator.create_credentials(expires_at=time.time() - 60))
            error = await start_error(url)
            assert isinstance(error, ConfigError)
            assert "whose JWT ended at" in str(error)

            file.write_text(good)
            async with broker_at(url) as running:
                await publish(running, "a", b"1")
                file.write_text("")
                link.cut()
                async with asyncio.timeout(10):
                    while "hold no seed" not in running.broker.link.trouble:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                file.write_text(good)
                await running.listener.wait_reconnect()
                await publish(running, "a", b"2")
                assert [b"1", b"2"] == await running.payloads("a")


RIGHTS = """
authorization {
  users = [
    { user: ann, password: pw, permissions: {
      publish: ["wirebell.>", "$JS.API.>"], subscribe: ["wirebell.>", "_INBOX.>"] } }
    { user: bob, password: pw, permissions: {
      publish: { allow: ["wirebell.>", "$JS.API.>"], deny: "wirebell.c.secret.>" },
      subscribe: { allow: ["wirebell.>", "_INBOX.>"], deny: "wirebell.c.secret.>" } } }
  ]
}
"""


async def test_rights() -> None:
    """The rights that the documentation names suffice; what is refused is told to who asked."""
    with nats.single(config=RIGHTS) as server:
        ann, bob = (f"nats://{name}:pw@127.0.0.1:{server.port}" for name in ("ann", "bob"))
        async with broker_at(ann) as one, broker_at(bob) as other, store_at(ann) as store:
            await one.broker.subscribe("a")
            await publish(other, "a", b"1")
            await publish(other, "a", b"2", ChannelOptions())
            await publish(other, "a", b"3", KEPT, PublishOptions(idempotency_key="k"))
            await one.listener.wait_count("a", 3)
            await one.broker.remove_history("a")
            await store.add("a", ClientInfo("1"), ttl_seconds=60)
            assert {"1"} == set(await store.members("a"))
            with pytest.raises(BrokerUnavailable, match="Permissions Violation"):
                await publish(other, "secret", b"1", ChannelOptions())
            with pytest.raises(BrokerUnavailable, match="Permissions Violation"):
                await other.broker.subscribe("secret")
            await publish(other, "a", b"4", ChannelOptions())


async def test_without_jetstream() -> None:
    """A server without JetStream: the error says how to start it."""
    with nats.single(has_jetstream=False) as server:
        error = await start_error(server.url)

    assert isinstance(error, ConfigError)
    assert "start nats-server with -js" in str(error)


async def test_tls() -> None:
    """TLS with certificates on both sides; without ours, without trust, and without TLS."""
    with nats.tls() as (server, made):
        url = f"tls://localhost:{server.port}"
        full = f"{url}?tls_ca={made.authority}&tls_cert={made.certificate}&tls_key={made.key}"
        async with broker_at(full) as running, store_at(full) as store:
            await running.broker.subscribe("a")
            await publish(running, "a", b"1")
            await running.listener.wait_count("a", 1)
            await store.add("a", ClientInfo("1"), ttl_seconds=60)
            server.restart(keeps_data=True)
            await running.listener.wait_reconnect()
            await publish(running, "a", b"2")
        for refused in (f"{url}?tls_ca={made.authority}", url, f"nats://localhost:{server.port}"):
            error = await start_error(refused)
            assert isinstance(error, ConfigError), error
            assert "TLS" in str(error)


async def test_tls_where_there_is_none() -> None:
    """``tls://`` to a server that does not speak it is refused, with the right form."""
    with nats.single() as server:
        error = await start_error(server.url.replace("nats://", "tls://"))

    assert isinstance(error, ConfigError)
    assert "write nats://" in str(error)


async def test_something_else() -> None:
    """What is not NATS is left."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp ready\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await start_error(f"nats://127.0.0.1:{port}?connect_timeout=0.5&io_timeout=0.5")

    assert isinstance(error, ConfigError)
    assert "is not NATS" in str(error)


async def test_old_server() -> None:
    """A server that is too old is refused with its version, and the one that is needed."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.8.4","headers":true}\r\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await start_error(f"nats://127.0.0.1:{port}")

    assert isinstance(error, ConfigError)
    assert "2.8.4, needed is 2.9" in str(error)


async def test_stream_of_somebody_else() -> None:
    """A stream of our name with other subjects is not touched."""
    with nats.single() as server:
        link = await client.connect(server.url)
        await link.jetstream().add_stream(name="wirebell-k", subjects=["theirs"])
        await link.close()
        with pytest.raises(BrokerUnavailable, match="is not ours"):
            async with broker_at(server.url):
                pass


async def test_two_nodes_in_each_others_way(cluster: nats.Cluster) -> None:
    """Whoever publishes at once in a cluster, offsets have no hole, and none is given twice."""
    options = ChannelOptions(history=History(size=500, ttl_seconds=60))
    urls = [f"nats://127.0.0.1:{server.port}" for server in cluster.servers]
    async with broker_at(urls[0]) as one, broker_at(urls[1]) as two, broker_at(urls[2]) as three:
        nodes = (one, two, three)
        for node in nodes:
            await node.broker.subscribe("busy")

        async def write(node: Running, name: int) -> list[tuple[int, bytes]]:
            written = []
            for number in range(25):
                data = b"%d.%d" % (name, number)
                written.append(((await publish(node, "busy", data, options)).position.offset, data))
            return written

        parts = await asyncio.gather(
            *(
                write(node, 10 * number + each)
                for number, node in enumerate(nodes)
                for each in (1, 2)
            )
        )
        part = await two.broker.history("busy", options, since=None, limit=500)

        acknowledged = sorted(written for part in parts for written in part)
        assert acknowledged == [(each.offset, each.data) for each in part.publications]
        assert list(range(1, 151)) == [offset for offset, _ in acknowledged]
        for node in nodes:
            await node.listener.wait_count("busy", 150)
            assert [data for _, data in acknowledged] == node.arrived("busy")


async def test_keys_of_a_cluster(cluster: nats.Cluster) -> None:
    """Of publications with one key that three nodes publish at once, one gets through."""
    urls = [f"nats://127.0.0.1:{server.port}" for server in cluster.servers]
    async with broker_at(urls[0]) as one, broker_at(urls[1]) as two, broker_at(urls[2]) as three:
        for number in range(5):
            how = PublishOptions(idempotency_key="k")
            channel = f"keyed:{number}"
            results = await asyncio.gather(
                *(publish(node, channel, b"x", KEPT, how) for node in (one, two, three))
            )
            assert 1 == len({result.position for result in results})
            assert [b"x"] == await two.payloads(channel)


async def test_server_of_a_cluster_dies() -> None:
    """With one of three dead everything goes on; what was acknowledged is there, each once."""
    options = ChannelOptions(history=History(size=2000, ttl_seconds=60))
    random = Random(3)  # noqa: S311 - not a secret
    with nats.cluster() as whole:
        async with broker_at(whole.url) as one, broker_at(whole.url) as other:
            acknowledged: list[tuple[int, bytes]] = []
            is_over = asyncio.Event()

            async def write() -> None:
                number = 0
                while not is_over.is_set():
                    data = b"%d" % number
                    try:
                        published = await publish(one, "steady", data, options)
                    except BrokerUnavailable:
                        # It is in both or in neither.
                        pass
                    else:
                        acknowledged.append((published.position.offset, data))
                    number += 1

            writer = asyncio.create_task(write())
            await other.broker.subscribe("steady")
            victim = random.choice(whole.servers)
            async with asyncio.timeout(20):
                while len(acknowledged) < 50:  # noqa: ASYNC110 - it goes on
                    await asyncio.sleep(0.01)
                victim.kill()
                before = len(acknowledged)
                while len(acknowledged) < before + 50:  # noqa: ASYNC110 - it goes on
                    await asyncio.sleep(0.01)
            is_over.set()
            await writer
            async with asyncio.timeout(20):
                part = await read_at_last(other, "steady", options)
            kept = {each.offset: each.data for each in part.publications}
            assert [] == [each for each in acknowledged if kept.get(each[0]) != each[1]]
            assert list(range(1, part.top.offset + 1)) == sorted(kept)
            assert len(set(kept.values())) == len(kept)


async def find_leader(whole: nats.Cluster) -> tuple[nats.NATSServer, list[nats.NATSServer]]:
    """Have the leader of all lead the stream of `KEPT` too; return it, and the others."""
    name = whole.servers[0].ask("jsz")["meta_cluster"]["leader"]
    link = await client.connect([each.url for each in whole.servers])
    async with asyncio.timeout(20):
        while True:
            cluster = (await link.jetstream().stream_info("wirebell-h-16-22")).cluster
            if cluster is not None and cluster.leader == name:
                break
            if cluster is not None and cluster.leader:
                await link.request("$JS.API.STREAM.LEADER.STEPDOWN.wirebell-h-16-22", timeout=5)
            await asyncio.sleep(0.02)
    await link.close()
    leader = whole.servers[int(name.removeprefix("node"))]
    return leader, [each for each in whole.servers if each is not leader]


async def test_server_of_a_cluster_stands_still() -> None:
    """With one of three standing still everything goes on, and nobody waits for it."""
    with nats.cluster() as whole:
        async with broker_at(whole.url) as first:
            await publish(first, "still", b"1")
        leader, others = await find_leader(whole)
        async with broker_at(leader.url) as one:
            others[0].pause()
            started = time.monotonic()
            await one.broker.subscribe("still")
            await one.broker.subscribe("other")
            took = time.monotonic() - started
            async with asyncio.timeout(30):
                last = await publish_at_last(one, "still", b"2")
                kept = (await read_at_last(one, "still", KEPT)).publications
            await one.listener.wait_count("still", 1)
            others[0].resume()

    assert took < 3
    assert last.position.offset == len(kept)
    assert (b"1", b"2") == (kept[0].data, kept[-1].data)


async def read_at_last(running: Running, channel: str, options: ChannelOptions) -> HistorySlice:
    """Read a history, when the cluster has a leader again."""
    while True:
        with contextlib.suppress(BrokerUnavailable):
            return await running.broker.history(channel, options, since=None, limit=2000)
        await asyncio.sleep(0.05)


async def publish_at_last(running: Running, channel: str, data: bytes) -> Published:
    """Publish until the server takes it."""
    while True:
        with contextlib.suppress(BrokerUnavailable):
            return await publish(running, channel, data)
        await asyncio.sleep(0.05)


async def test_lost_quorum() -> None:
    """With two of three dead nothing is stored, which is told in time; with one back it is."""
    with nats.cluster() as whole:
        async with broker_at(whole.url) as running:
            await publish(running, "quorum", b"1")
        # Who leads stays, so that nobody has to be elected.
        leader, others = await find_leader(whole)
        async with broker_at(f"{leader.url}?io_timeout=1") as running:
            for server in others:
                server.kill()
            results = await asyncio.gather(
                publish(running, "quorum", b"2"), running.broker.check(), return_exceptions=True
            )
            assert all(isinstance(result, BrokerUnavailable) for result in results), results
            others[0].spawn()
            async with asyncio.timeout(30):
                last = await publish_at_last(running, "quorum", b"3")
                kept = (await read_at_last(running, "quorum", KEPT)).publications

            assert kept[0].data == b"1"
            assert kept[-1].data == b"3"
            assert last.position.offset == len(kept)


async def test_cluster_that_is_too_small() -> None:
    """A server alone that was asked for replicas says what to write."""
    with nats.single() as server:
        with pytest.raises(ConfigError, match="replicas=1"):
            async with broker_at(f"{server.url}?replicas=3"):
                pass
        async with broker_at(f"{server.url}?replicas=1") as running:
            await publish(running, "a", b"1")
