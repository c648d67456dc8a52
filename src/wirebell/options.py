"""What is served, where, and to whom: the choices that are no limits and no intervals.

`wirebell.settings` holds the latter. `Realtime` takes both; ``wirebell serve`` makes them from its
configuration. Names are those of the configuration's tree where one thing is one key.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wirebell.errors import Disconnect

__all__ = (
    "APIOptions",
    "ChannelNames",
    "ClientOptions",
    "ConnectResponse",
    "EmulationOptions",
    "EndpointOptions",
    "PersonalChannel",
    "StreamOptions",
    "TransportOptions",
    "UnidirectionalStreamOptions",
    "UnidirectionalWebSocketOptions",
    "WebSocketOptions",
)

# 64 KiB, as for a message: the reference's bound for each body (protocol document, section 3).
BODY_BYTES_MAX = 65_536


class WebSocketOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The bidirectional WebSocket. Its bounds and its compression stand in the settings.

    Attributes:
        enabled: It is served.
        path: Where, below the mount's path.
    """

    enabled: bool = True
    path: str = "/connection/websocket"


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A transport over an HTTP response: SSE or HTTP streaming.

    Attributes:
        enabled: It is served.
        path: Where, below the mount's path.
        body_bytes_max: Longest body of the request that opens it; a longer one is answered 413.
    """

    enabled: bool = False
    path: str
    body_bytes_max: int = BODY_BYTES_MAX


class ConnectResponse(msgspec.Struct, frozen=True):
    """How a failed connect is answered over HTTP.

    Attributes:
        status: HTTP status, 400 to 599.
        body: The response's text.
    """

    status: int
    body: str = ""


class UnidirectionalStreamOptions(StreamOptions, frozen=True, kw_only=True):
    """A unidirectional transport over an HTTP response.

    Attributes:
        connect_responses: Code of an error or a disconnect → answer, when connecting fails. With
            ``None`` the answer is 200 and a disconnect push; with a mapping, a code that is not in
            it is answered 500 (transcripts ``connect_code_to_http_response``).
    """

    connect_responses: Mapping[int, ConnectResponse] | None = None


class UnidirectionalWebSocketOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The unidirectional WebSocket.

    Attributes:
        enabled: It is served.
        path: Where, below the mount's path.
        message_bytes_max: Longest message of the peer; ``None`` as the settings say, like the next
            two.
        compression: Offer permessage-deflate.
        compression_bytes_min: Shortest message that is compressed.
        join_push_messages: Several pushes may share a message, separated by a line feed.
        disable_disconnect_push: Only the close frame tells why, no disconnect push before it.
    """

    enabled: bool = False
    path: str = "/connection/uni_websocket"
    message_bytes_max: int | None = None
    compression: bool | None = None
    compression_bytes_min: int | None = None
    join_push_messages: bool = False
    disable_disconnect_push: bool = False


class EmulationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where clients of SSE and HTTP streaming send their commands; served when one of them is.

    Attributes:
        path: Where, below the mount's path.
        body_bytes_max: Longest body; a longer one is answered 413.
    """

    path: str = "/emulation"
    body_bytes_max: int = BODY_BYTES_MAX


class TransportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which transports are served. By default, as in the reference, the WebSocket only."""

    websocket: WebSocketOptions = WebSocketOptions()
    sse: StreamOptions = StreamOptions(path="/connection/sse")
    http_stream: StreamOptions = StreamOptions(path="/connection/http_stream")
    uni_websocket: UnidirectionalWebSocketOptions = UnidirectionalWebSocketOptions()
    uni_sse: UnidirectionalStreamOptions = UnidirectionalStreamOptions(path="/connection/uni_sse")
    uni_http_stream: UnidirectionalStreamOptions = UnidirectionalStreamOptions(
        path="/connection/uni_http_stream"
    )
    emulation: EmulationOptions = EmulationOptions()

    @classmethod
    def create_all(cls) -> TransportOptions:
        """Serve all of them, each with its defaults."""
        return cls(
            sse=StreamOptions(enabled=True, path="/connection/sse"),
            http_stream=StreamOptions(enabled=True, path="/connection/http_stream"),
            uni_websocket=UnidirectionalWebSocketOptions(enabled=True),
            uni_sse=UnidirectionalStreamOptions(enabled=True, path="/connection/uni_sse"),
            uni_http_stream=UnidirectionalStreamOptions(
                enabled=True, path="/connection/uni_http_stream"
            ),
        )


class APIOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The server API over HTTP (protocol document, section 2.7).

    Attributes:
        enabled: It is served.
        path: Where, below the mount's path.
        key: Whoever shows it may do everything; empty lets nobody in, unless ``insecure``.
        insecure: Nobody has to show a key. For development only.
        transport_errors: Errors are told by the HTTP status too (section 1.14).
    """

    enabled: bool = True
    path: str = "/api"
    key: str = ""
    insecure: bool = False
    transport_errors: bool = False


class PersonalChannel(msgspec.Struct, frozen=True, kw_only=True):
    """Every user is subscribed to a channel of their own by connecting.

    Attributes:
        namespace: Of that channel; empty for none.
        single_connection: A user's newest connection ends the older ones.
    """

    namespace: str = ""
    single_connection: bool = False


class ChannelNames(msgspec.Struct, frozen=True, kw_only=True):
    """How a channel's name is read. Its length is bounded in the settings.

    Attributes:
        private_prefix: A channel that begins with it needs a subscription token; empty for none.
        namespace_boundary: Ends the namespace; empty for no namespaces.
        user_boundary: Begins the list of users who may subscribe; empty for none.
        user_separator: Stands between two of them.
    """

    private_prefix: str = "$"
    namespace_boundary: str = ":"
    user_boundary: str = "#"
    user_separator: str = ","


class ClientOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Who may connect, and what connecting gives.

    Attributes:
        allow_anonymous_connect_without_token: A peer without any credentials is anonymous, and
            not turned away.
        disallow_anonymous_connection_tokens: A token without a user is turned away.
        insecure: Every peer may connect, subscribe, publish and read. For development only.
        user_id_http_header: The user stands in this header, which a proxy in front sets *and
            removes from what peers send*; empty for none.
        connect_include_server_time: The connect result tells the server's time.
        personal: Subscribe every user to a channel of their own; ``None`` does not.
        connect_disconnects: Code of an error or a disconnect → what a unidirectional transport
            tells instead, when connecting fails.
        rpc_ping_method: An RPC method that answers nothing, for clients that measure; empty for
            none.
    """

    allow_anonymous_connect_without_token: bool = False
    disallow_anonymous_connection_tokens: bool = False
    insecure: bool = False
    user_id_http_header: str = ""
    connect_include_server_time: bool = False
    personal: PersonalChannel | None = None
    connect_disconnects: Mapping[int, Disconnect] = {}
    rpc_ping_method: str = ""


class EndpointOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is served besides, below the mount's path; an empty path is not served.

    Attributes:
        health: Answers while the process lives.
        ready: Answers 200 while it takes connections and its broker can be reached, else 503.
        metrics: Prometheus' text format, of all workers together.
        swagger: The server API described for people.
        init: ``GET`` answers ``{}``: a first request that sets a balancer's cookie.
        browser: The folder of the client for browsers: a page imports ``index.js`` from there.
    """

    health: str = ""
    ready: str = ""
    metrics: str = ""
    swagger: str = ""
    init: str = ""
    browser: str = ""
