"""Errors and the codes that reach a peer."""

from __future__ import annotations

import pytest

from wirebell.errors import (
    DISCONNECT_REASONS,
    ERROR_MESSAGES,
    TEMPORARY_CODES,
    BadRequest,
    ClientDisconnected,
    CommandError,
    ConnectionClosed,
    Denied,
    Disconnect,
    DisconnectCode,
    ErrorCode,
    HandshakeError,
    LimitExceeded,
    PermissionDenied,
    ProtocolError,
    WirebellError,
    create_disconnect,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError, 100),
        (BadRequest, 107),
        (LimitExceeded, 106),
        (PermissionDenied, 103),
        (Denied, 103),
    ],
)
def test_command_error(error: type[CommandError], code: int) -> None:
    """A refused command carries its code and its message, and is not temporary."""
    raised = error("too much")

    assert (code, "too much", "too much", False) == (
        raised.code,
        raised.message,
        str(raised),
        raised.temporary,
    )


def test_connection_closed() -> None:
    """An operation on an ended connection says how the connection ended."""
    disconnect = Disconnect(DisconnectCode.SLOW, "slow consumer")

    error = ConnectionClosed(disconnect)

    assert isinstance(error, WirebellError)
    assert disconnect == error.disconnect
    assert str(error) == "connection closed: 3008 slow consumer"


def test_reason_fits_a_close_frame() -> None:
    """A reason of 123 bytes is the longest; bytes count, not characters."""
    assert Disconnect(1000, "é" * 61 + "x").code == 1000

    with pytest.raises(ValueError, match="reason has 124 bytes, limit 123"):
        Disconnect(1000, "é" * 62)


def test_codes_can_be_sent() -> None:
    """Every close code is one that an endpoint may send (RFC 6455, section 7.4)."""
    ours = {int(code) for code in DisconnectCode}

    assert ours <= {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_protocol_errors() -> None:
    """A protocol error has its code's message, and is temporary where the protocol says so."""
    errors = [ProtocolError(code) for code in ErrorCode]

    assert set(ErrorCode) == ERROR_MESSAGES.keys()
    assert list(ERROR_MESSAGES.values()) == [error.message for error in errors]
    assert {error.code for error in errors if error.temporary} == TEMPORARY_CODES


def test_disconnects() -> None:
    """A disconnect of the protocol has its code's reason."""
    disconnect = create_disconnect(DisconnectCode.BAD_REQUEST)

    assert (3501, DISCONNECT_REASONS[DisconnectCode.BAD_REQUEST]) == (
        disconnect.code,
        disconnect.reason,
    )


def test_client_disconnected() -> None:
    """A connection that has to end says how."""
    disconnect = create_disconnect(DisconnectCode.BAD_REQUEST)

    error = ClientDisconnected(disconnect)

    assert (disconnect, "disconnected: 3501 bad request") == (error.disconnect, str(error))


def test_handshake_error() -> None:
    """A refused handshake has its status, what is wrong, and headers."""
    error = HandshakeError(426, "upgrade", [(b"upgrade", b"websocket")])

    assert (426, "upgrade", [(b"upgrade", b"websocket")]) == (
        error.status,
        error.message,
        error.headers,
    )
