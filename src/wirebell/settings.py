"""Every limit and every interval of the library, with its unit, its default and the reason.

Read from the environment as ``WIREBELL_`` and the field's name in capitals, or given as keyword
arguments. Limits of *how many* are off (0) unless somebody sets them, because only the operator
knows the machine; limits of *bytes* are on, because without them one peer can take the memory of
all the others.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ("Settings",)


class Settings(BaseSettings):
    """Settings of one node.

    Raises:
        pydantic.ValidationError: A value is out of its bounds; the error names field, value and
            bound.
    """

    # No bound is infinite: a process could not say when it ends.
    model_config = SettingsConfigDict(
        env_prefix="WIREBELL_", extra="ignore", frozen=True, allow_inf_nan=False
    )

    broker_url: str = "memory://"
    """Where publications cross processes. ``memory://`` stays inside one process."""

    memory_allows_workers: bool = False
    """Let ``memory://`` run in several workers, each for itself: a publication reaches only the
    clients of the worker that took it. Otherwise such a start is refused."""

    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins that may connect besides the page's own host, as ``https://app.example``;
    comma-separated in the environment. ``*`` lets every page of the web use a visitor's cookies:
    only for channels without any."""

    connections_max: int = Field(default=0, ge=0)
    """Connections of this process; 0 is no limit."""

    connections_per_address_max: int = Field(default=0, ge=0)
    """Connections of one client address; 0 is no limit. Behind a proxy the address is the
    proxy's, unless the server was told to trust its headers (``--forwarded-allow-ips``)."""

    connections_per_user_max: int = Field(default=0, ge=0)
    """Connections of one user on this process; 0 is no limit."""

    connections_per_second_max: int = Field(default=0, ge=0)
    """New connections of this process in one second; 0 is no limit."""

    message_bytes_max: int = Field(default=65_536, ge=1)
    """Longest message of a peer. 64 KiB is what Centrifugo allows, and with 10,000 peers in the
    middle of one it is 640 MiB."""

    publication_bytes_max: int = Field(default=131_072, ge=1)
    """Longest publication: a longest message, and as much again for what an endpoint adds."""

    send_queue_bytes_max: int = Field(default=1_048_576, ge=1)
    """Bytes that may wait for one peer before it is cut as a slow consumer; each message counts
    64 more than its text. 1 MiB is about 6,000 chat messages: a peer that far behind recovers
    faster from the log."""

    tick_bytes_max: int = Field(default=1_048_576, ge=1)
    """Payload bytes that are gathered in one turn of the event loop; more are sent at once. With
    ``send_queue_bytes_max`` it bounds what one peer can make wait."""

    compression: bool = False
    """Offer permessage-deflate to peers of sockets that Wirebell serves itself. It costs time of
    the processor, and pays for itself only where the network is the bottleneck."""

    compression_bytes_min: int = Field(default=512, ge=1)
    """Shortest message that is compressed: below it deflate saves less than it costs."""

    descriptors_spare: int = Field(default=64, ge=8)
    """File descriptors of the process that no connection may take: files, database and broker
    need some, and refusing a client politely needs one as well."""

    channel_bytes_max: int = Field(default=255, ge=1)
    """Longest name of a channel, in UTF-8; Centrifugo's bound, and a key of every broker."""

    channels_per_connection_max: int = Field(default=128, ge=1)
    """Channels that one connection may subscribe to; Centrifugo's bound."""

    commands_per_second_max: dict[str, float] = {}
    """Commands of the client protocol → how many of each one connection may send in a second, as
    ``{"publish": 10}``; JSON in the environment. More are answered with error 111. Empty is no
    limit, since only the application knows what its clients do."""

    history_channels_max: int = Field(default=100_000, ge=1)
    """Channels whose history the memory broker keeps. Past it the one that was published to
    least recently is forgotten; its clients are told that they could not be recovered."""

    history_bytes_max: int = Field(default=268_435_456, ge=1)
    """Payload bytes that the memory broker keeps in all histories together: 256 MiB."""

    idempotency_keys_max: int = Field(default=100_000, ge=1)
    """Idempotency keys of publications that the memory broker remembers; each lives five minutes.
    Past it the oldest is forgotten, and a retry with it publishes again."""

    recovery_publications_max: int = Field(default=300, ge=1)
    """Most publications handed to a client that comes back; a wider gap is reported as not
    recovered, since reading state anew is cheaper then. Centrifugo's bound."""

    history_publications_max: int = Field(default=300, ge=1)
    """Most publications that one answer about a channel's history holds; who wants more asks
    again. Centrifugo's bound."""

    presence_ttl_seconds: float = Field(default=60.0, gt=0)
    """How long an entry of presence outlives a node that died without a word."""

    presence_refresh_seconds: float = Field(default=25.0, gt=0)
    """How often a node renews its entries: twice within the time to live, so that one lost
    renewal is no leave."""

    heartbeat_interval_seconds: float = Field(default=30.0, gt=0)
    """Time between two heartbeat texts on a plain socket that asked for them."""

    ping_interval_seconds: float = Field(default=25.0, gt=0)
    """Time between two pings. Below the 30 s and 60 s after which proxies drop idle links."""

    pong_timeout_seconds: float = Field(default=8.0, gt=0)
    """Time to answer a ping before a peer counts as gone."""

    idle_timeout_seconds: float = Field(default=0.0, ge=0)
    """Time without a message of the peer before it is closed; 0 is no limit, since who only
    listens has nothing to say. Found when the peer is pinged, so up to one interval late."""

    request_timeout_seconds: float = Field(default=10.0, ge=0)
    """Time for a client to ask for something after it connected, where `wirebell.uvicorn`'s
    HTTP class serves; 0 is no limit."""

    first_message_timeout_seconds: float = Field(default=5.0, gt=0)
    """Time to sign in, where the first message carries the credentials."""

    expired_close_delay_seconds: float = Field(default=25.0, gt=0)
    """Time between the end of a client's credentials and its being closed, in which it may
    refresh them. Centrifugo's default."""

    expired_sub_close_delay_seconds: float = Field(default=25.0, gt=0)
    """The same for the end of a subscription."""

    channel_position_check_seconds: float = Field(default=40.0, gt=0)
    """How often a client's position in a channel is compared with the broker's, which finds what
    a broker lost on its way here. Centrifugo's default."""

    node_announce_seconds: float = Field(default=3.0, gt=0)
    """How often a node tells the others that it lives, and what it has to do. Centrifugo's
    interval; with 100 nodes each hears 33 such messages a second."""

    node_forget_seconds: float = Field(default=10.0, gt=0)
    """After so long without a word a node counts as dead: three announcements are missing."""

    survey_timeout_seconds: float = Field(default=3.0, gt=0)
    """How long a node waits for the others' answers before it says which did not answer."""

    revocations_max: int = Field(default=100_000, ge=1)
    """Revoked tokens and users that a node remembers: about 40 MB. Past it the oldest is
    forgotten, and a warning tells so."""

    revocation_ttl_seconds: float = Field(default=2_592_000.0, gt=0)
    """How long a revocation is remembered, unless it says when the last such token ends: 30 days.
    Must be at least as long as the longest life of a token."""

    outbox_poll_seconds: float = Field(default=1.0, gt=0)
    """How often a node looks into the outbox unasked. What a node's own transactions write is
    relayed at their commit; this finds what a process wrote that died then, or relays nothing."""

    outbox_lease_seconds: float = Field(default=15.0, ge=1)
    """After so long without a word of the node that relays the outbox another takes over. Two
    thirds of it are for work: what was begun has 5 s, as long as the longest call of a broker."""

    outbox_batch_rows_max: int = Field(default=200, ge=1)
    """Rows that the relay of an outbox reads at once: of the longest publications 26 MB."""

    close_timeout_seconds: float = Field(default=5.0, gt=0)
    """Time for a closing handshake before the link is aborted."""

    drain_window_seconds: float = Field(default=5.0, ge=0)
    """Time over which a process that stops closes its connections, so that clients come back
    spread over it too. Fewer than 100 a second are never spread thinner than that."""

    handover_seconds: float = Field(default=3.0, ge=0)
    """Time for a client to come back to another node before anybody sees that it left the one that
    stops, which ends so much later; 0 tells each leave at once. Clients try again after 0.5 to 1 s,
    and once more 0.5 to 1.5 s later. Nothing is waited for where no other node lives."""

    tcp_user_timeout_seconds: float = Field(default=20.0, gt=0)
    """Time that sent bytes may stay unacknowledged before the kernel drops the link: what frees
    a peer that stopped reading and whose close frame cannot leave."""

    @model_validator(mode="after")
    def check_presence(self) -> Settings:
        """Refuse leases that end before they are renewed."""
        if self.presence_refresh_seconds >= self.presence_ttl_seconds:
            raise ValueError(
                f"presence_refresh_seconds must be below presence_ttl_seconds "
                f"({self.presence_ttl_seconds}), got {self.presence_refresh_seconds}"
            )
        return self

    @model_validator(mode="after")
    def check_announcements(self) -> Settings:
        """Refuse to forget nodes before they could be heard."""
        if self.node_announce_seconds >= self.node_forget_seconds:
            raise ValueError(
                f"node_announce_seconds must be below node_forget_seconds "
                f"({self.node_forget_seconds}), got {self.node_announce_seconds}"
            )
        return self

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def split_origins(cls, value: object) -> object:
        """Read ``https://a.example, https://b.example`` as two origins."""
        if isinstance(value, str):
            return tuple(origin.strip() for origin in value.split(",") if origin.strip())
        return value

    @field_validator("allowed_origins")
    @classmethod
    def check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what could never equal an Origin header: a path, or a missing scheme."""
        for origin in value:
            if origin != "*" and (origin.count("/") != 2 or "://" not in origin):
                raise ValueError(f"an origin is scheme://host[:port], got {origin!r}")
        return value
