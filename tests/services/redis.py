"""Real Redis: single, with a password, with TLS, behind Sentinels, as a cluster.

Each is started on free ports in a folder of its own, and gone at the end of its block.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hiredis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import free_port
from tests.services import find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = (
    "Certificates",
    "Cluster",
    "RedisServer",
    "Sentinels",
    "certificates",
    "cluster",
    "sentinels",
    "single",
    "tls",
)

HOST = "127.0.0.1"
START_SECONDS = 20.0
MASTER_NAME = "mymaster"
SENTINEL_PERIODS = ("ask-period", 100, "publish-period", 300)
"""In milliseconds; of the others, shorter ones break failovers."""


@dataclass
class RedisServer:
    """One process, and how to reach it."""

    folder: Path
    arguments: tuple[str, ...] = ()
    program: str = "redis-server"
    password: str = ""
    port: int = field(default_factory=free_port)
    host: str = HOST
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://{f':{self.password}@' if self.password else ''}{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.spawn()
        self.wait_started()

    def wait_started(self) -> None:
        """Wait until it answers, unless it ended."""

        def has_started() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"redis-server ended:\n{self.log()}")
            return self.answers()

        wait(has_started, "redis-server did not start")

    def spawn(self) -> None:
        """Start it."""
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    find_program(self.program, "redis-server"),
                    *self.arguments,
                    *("--port", str(self.port), "--bind", self.host, "--dir", str(self.folder)),
                ],
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """Return what it said lately."""
        path = self.folder / "log"
        return path.read_text()[-3000:] if path.exists() else ""

    def answers(self) -> bool:
        """Tell whether it takes commands: it has its data."""
        try:
            return bool(self.command("PING") == b"PONG")
        except (OSError, EOFError, hiredis.ReplyError):
            return False

    def command(self, *words: str | int | bytes) -> Any:
        """Ask it something."""
        with socket.create_connection((self.host, self.port), timeout=5) as link:
            ahead = (("AUTH", self.password),) if self.password else ()
            parser = hiredis.Reader(notEnoughData=link)
            reply: Any = None
            for command in (*ahead, words):
                link.sendall(hiredis.pack_command(command))
                while (reply := parser.gets()) is link:
                    data = link.recv(65536)
                    if not data:
                        raise EOFError("redis-server closed the link")
                    parser.feed(data)
                if isinstance(reply, hiredis.ReplyError):
                    raise reply
            return reply

    def time(self) -> float:
        """Return its time, in seconds since 1970."""
        seconds, microseconds = self.command("TIME")
        return int(seconds) + int(microseconds) / 1_000_000

    def pause(self) -> None:
        """Stop it in the middle of what it does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it; idempotent."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(timeout=10)

    def restart(self, *, keeps_data: bool) -> None:
        """Kill it and start it again, with its files or without."""
        self.kill()
        if not keeps_data:
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "log":
                    path.unlink()
        self.start()


def wait(is_so: Callable[[], bool], message: str, seconds: float = START_SECONDS) -> None:
    """Wait until something is so, at most so long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(message)
        time.sleep(0.01)


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="wirebell-redis-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def single(
    *arguments: str, password: str = "", keeps_data: bool = False, host: str = HOST
) -> Iterator[RedisServer]:
    """Run one server.

    Args:
        arguments: More of its options.
        password: Of its default user.
        keeps_data: Write every command to disk.
        host: Where it listens.
    """
    options = ["--save", "", "--appendonly", "yes" if keeps_data else "no"]
    # With its default a busy disk may hold a write back for two seconds.
    options += ["--appendfsync", "always"]
    if password:
        options += ["--requirepass", password]
    with _folder() as folder:
        server = RedisServer(folder, (*options, *arguments), password=password, host=host)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@dataclass(frozen=True)
class Certificates:
    """Files in one folder: an authority, and what it signed."""

    folder: Path

    @property
    def authority(self) -> str:
        """Whom to believe."""
        return str(self.folder / "authority.pem")

    @property
    def certificate(self) -> str:
        """Of 127.0.0.1 and localhost; serves servers and clients."""
        return str(self.folder / "certificate.pem")

    @property
    def key(self) -> str:
        """Of that."""
        return str(self.folder / "key.pem")


def certificates(folder: Path) -> Certificates:
    """Make an authority and a certificate, good for an hour."""
    now = dt.datetime.now(dt.UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])

    def begin(name: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
        )

    authority = (
        begin(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        begin(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key.public_key())
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
            ),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    (folder / "authority.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Certificates(folder)


@contextmanager
def tls() -> Iterator[tuple[str, RedisServer, Certificates]]:
    """Run a server that speaks TLS and asks for certificates; its plain port is for the tests.

    Gives the URL without certificates, the server and the certificates.
    """
    with _folder() as folder:
        made = certificates(folder)
        port = free_port()
        options = (
            *("--save", "", "--tls-port", str(port), "--tls-auth-clients", "yes"),
            *("--tls-ca-cert-file", made.authority),
            *("--tls-cert-file", made.certificate, "--tls-key-file", made.key),
        )
        server = RedisServer(folder / "data", options)
        try:
            server.start()
            yield f"rediss://{HOST}:{port}", server, made
        finally:
            server.kill()


@dataclass
class Sentinels:
    """A master, its replica, and three Sentinels that watch them."""

    servers: list[RedisServer]
    sentinels: list[RedisServer]

    @property
    def url(self) -> str:
        """Where it is."""
        hosts = ",".join(f"{HOST}:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER_NAME}"

    def find_master(self) -> RedisServer:
        """Return who is the master by the word of the first Sentinel."""
        _, port = self.sentinels[0].command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        return next(each for each in self.servers if each.port == int(port))

    def wait_in_step(self) -> None:
        """Wait until the replica has all that the master took until now."""
        master = self.find_master()
        (replica,) = (each for each in self.servers if each is not master)
        offset = _replication_offset(master)
        wait(lambda: _replication_offset(replica) >= offset, replica.log())

    def stop(self) -> None:
        """Kill all of them."""
        for each in (*self.sentinels, *self.servers):
            each.kill()


@contextmanager
def sentinels() -> Iterator[Sentinels]:
    """Run a master with a replica and three Sentinels; ready when all know all."""
    with _folder() as folder:
        options = ("--save", "", "--repl-diskless-sync-delay", "0")
        master = RedisServer(folder / "master", options)
        replica = RedisServer(
            folder / "replica", (*options, "--replicaof", f"{HOST} {master.port}")
        )
        made = Sentinels([master, replica], [])
        try:
            for server in made.servers:
                server.spawn()
            for number in range(3):
                place = folder / f"sentinel{number}"
                place.mkdir()
                (place / "sentinel.conf").write_text(
                    f"sentinel monitor {MASTER_NAME} {HOST} {master.port} 2\n"
                    f"sentinel down-after-milliseconds {MASTER_NAME} 500\n"
                    f"sentinel failover-timeout {MASTER_NAME} 2000\n"
                )
                sentinel = RedisServer(
                    place, (str(place / "sentinel.conf"), "--sentinel"), program="redis-server"
                )
                made.sentinels.append(sentinel)
            for server in made.servers:
                server.wait_started()
            wait(lambda: _replica_count(master) == 1, replica.log())
            for sentinel in made.sentinels:
                sentinel.spawn()
            for sentinel in made.sentinels:
                sentinel.wait_started()
                # Else they tell each other every two seconds.
                sentinel.command("SENTINEL", "DEBUG", *SENTINEL_PERIODS)
            for sentinel in made.sentinels:
                wait(lambda each=sentinel: _knows_all(each), sentinel.log())  # type: ignore[misc]
            yield made
        finally:
            made.stop()


def _replica_count(master: RedisServer) -> int:
    """Return how many replicas are in step with a master."""
    return int(master.command("INFO", "replication").count(b"state=online"))


def _replication_offset(server: RedisServer) -> int:
    """Return how far a master, or its replica, has come."""
    lines = server.command("INFO", "replication").split()
    name = b"slave_repl_offset:" if b"role:slave" in lines else b"master_repl_offset:"
    return next(int(line.removeprefix(name)) for line in lines if line.startswith(name))


def _knows_all(sentinel: RedisServer) -> bool:
    """Tell whether a Sentinel knows the replica and the two others."""
    with contextlib.suppress(OSError, EOFError, hiredis.ReplyError):
        reply = sentinel.command("SENTINEL", "MASTER", MASTER_NAME)
        known = dict(zip(reply[::2], reply[1::2], strict=True))
        return (b"1", b"2") == (known[b"num-slaves"], known[b"num-other-sentinels"])
    return False


@dataclass
class Cluster:
    """Three masters."""

    servers: list[RedisServer]

    @property
    def url(self) -> str:
        """Where it is."""
        return "redis+cluster://" + ",".join(f"{HOST}:{each.port}" for each in self.servers)

    def wait_whole(self) -> None:
        """Wait until every master knows that all slots are served."""
        for server in self.servers:
            wait(
                lambda each=server: b"cluster_state:ok" in each.command("CLUSTER", "INFO"),  # type: ignore[misc]
                server.log(),
            )

    def owner_of(self, slot: int) -> RedisServer:
        """Return who has a slot."""
        for first, last, master, *_ in self.servers[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(each for each in self.servers if each.port == master[1])
        raise LookupError(f"nobody has slot {slot}")

    def begin_move(self, slot: int) -> RedisServer:
        """Give the keys of a slot to another master, which is asked from now on; returns that."""
        source = self.owner_of(slot)
        target = next(each for each in self.servers if each is not source)
        source_id, target_id = (each.command("CLUSTER", "MYID") for each in (source, target))
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
        return target

    def end_move(self, slot: int, target: RedisServer) -> None:
        """Give it the slot, too."""
        target_id, source = target.command("CLUSTER", "MYID"), self.owner_of(slot)
        for server in (target, source, *self.servers):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a cluster of three masters, each with a third of the slots."""
    with _folder() as folder:
        made = Cluster(
            [
                RedisServer(
                    folder / f"node{number}",
                    (
                        *("--save", "", "--cluster-enabled", "yes"),
                        *("--cluster-port", str(free_port())),
                        *("--cluster-node-timeout", "2000"),
                    ),
                )
                for number in range(3)
            ]
        )
        try:
            for server in made.servers:
                server.spawn()
            for number, server in enumerate(made.servers):
                server.wait_started()
                first, last = number * 5461, min(number * 5461 + 5460, 16383)
                server.command("CLUSTER", "ADDSLOTSRANGE", first, 16383 if number == 2 else last)
                server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for server in made.servers[1:]:
                bus = int(server.arguments[server.arguments.index("--cluster-port") + 1])
                made.servers[0].command("CLUSTER", "MEET", HOST, server.port, bus)
            made.wait_whole()
            yield made
        finally:
            for server in made.servers:
                server.kill()
