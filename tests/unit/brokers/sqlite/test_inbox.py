"""How a node reads the log: in order, once, and never past a hole in silence."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from tests.unit.brokers.sqlite.databases import database, write
from wirebell.brokers.sqlite import statements
from wirebell.brokers.sqlite.inbox import Delivery, Inbox, read_newest
from wirebell.brokers.sqlite.keeper import remove_batches
from wirebell.brokers.sqlite.operations import (
    CONTROL,
    ITEM,
    Publish,
    Tell,
    TellNodes,
    pack,
)
from wirebell.model import ClientInfo, Membership, Publication
from wirebell.records import encode_membership, encode_publication

DATABASE = ("instance", (1, 2))


class Node:
    """What an inbox hands on."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.got: list[Delivery | str] = []
        self.inbox = Inbox(lambda deliveries, _: self.got.extend(deliveries), self.got.append)
        self.inbox.subscribed |= {"a", "b"}
        self.inbox.node_id = "me"
        self.inbox.place(connection, DATABASE)

    def numbers(self) -> list[bytes]:
        """Return the payloads that came."""
        return [
            what.data
            for kind, _, what in (each for each in self.got if not isinstance(each, str))
            if kind == ITEM and isinstance(what, Publication)
        ]


def publish(number: int, channel: str = "a") -> Publish:
    """Make a publication's operation."""
    publication = Publication(b"%d" % number)
    return Publish(channel, publication, encode_publication(publication), None, None, 0.0)


def test_what_is_for_this_node(tmp_path: Path) -> None:
    """Items of channels that it subscribed to, and what nodes tell all or it."""
    joined = Membership(ClientInfo("c"), joined=True)
    with database(tmp_path) as connection:
        node = Node(connection)
        write(
            connection,
            publish(1),
            publish(2, "elsewhere"),
            Tell("b", joined, encode_membership(joined), 0.0),
            TellNodes("", b"all", 0.0),
            TellNodes("me", b"me", 0.0),
            TellNodes("you", b"you", 0.0),
        )

        node.inbox.read_on(connection, DATABASE)
        node.inbox.read_on(connection, DATABASE)

    assert [
        (ITEM, "a", Publication(b"1")),
        (ITEM, "b", joined),
        (CONTROL, "", b"all"),
        (CONTROL, "", b"me"),
    ] == node.got


def test_what_it_wrote_itself(tmp_path: Path) -> None:
    """Its own stands between what others wrote before and after, whoever reads it."""
    own: list[Delivery] = [(ITEM, "a", Publication(b"own"))]
    with database(tmp_path) as connection:
        node = Node(connection)
        write(connection, publish(1))
        write(connection, publish(2))
        write(connection, publish(3))

        node.inbox.read_on(connection, DATABASE, 2, own)
        node.inbox.read_on(connection, DATABASE, 2, own)
        write(connection, publish(4))
        node.inbox.read_on(connection, DATABASE, 4, own)

    assert [b"1", b"own", b"3", b"own"] == node.numbers()


def test_before_it_runs(tmp_path: Path) -> None:
    """Nothing is read for nobody, and what came before a node is not for it."""
    with database(tmp_path) as connection:
        write(connection, publish(1))
        inbox = Inbox(lambda *_: pytest.fail("delivered"), lambda _: pytest.fail("lost"))
        inbox.read_on(connection, DATABASE)
        node = Node(connection)
        node.inbox.read_on(connection, DATABASE)

    assert [] == node.got


def test_many_batches(tmp_path: Path) -> None:
    """More than one step's rows are read at once, in order."""
    with database(tmp_path) as connection:
        node = Node(connection)
        for number in range(50):
            write(connection, publish(number))
        node.inbox.read_on(connection, DATABASE)

    assert [b"%d" % number for number in range(50)] == node.numbers()


def test_rows_that_are_gone(tmp_path: Path) -> None:
    """Rows that were removed unread are missed loudly, in order with what comes."""
    with database(tmp_path) as connection:
        node = Node(connection)
        for number in range(1, 6):
            write(connection, publish(number))
        remove_batches(connection, 100)
        left = connection.execute("SELECT id FROM batches").fetchall()
        node.inbox.read_on(connection, DATABASE)

    assert [(5,)] == left
    assert "4 batches were removed before they were read" == node.got[0]
    assert [b"5"] == node.numbers()


def test_numbers_have_no_holes(tmp_path: Path) -> None:
    """A batch that is not committed takes no number, and removing all keeps the count."""
    with database(tmp_path) as connection:
        write(connection, publish(1))
        connection.execute("BEGIN IMMEDIATE")
        write(connection, publish(2))
        connection.execute("ROLLBACK")
        connection.execute("DELETE FROM batches")
        write(connection, publish(3))

        assert 2 == read_newest(connection)


def test_another_database(tmp_path: Path) -> None:
    """In another database, or one that was put back, the node begins anew, and says so."""
    with database(tmp_path) as connection:
        node = Node(connection)
        node.inbox.last_id = 7
        write(connection, publish(1))

        node.inbox.read_on(connection, ("instance", (1, 3)))
        node.inbox.read_on(connection, ("other", (1, 3)))
        node.inbox.read_on(connection, ("other", (1, 4)))
        write(connection, publish(2))
        node.inbox.read_on(connection, ("other", (1, 4)))

    assert ["its file is another one than before"] * 2 == node.got[:2]
    assert [b"2"] == node.numbers()


def test_what_a_newer_release_wrote(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows and records that this release cannot read are left out, and told once a minute."""
    with database(tmp_path) as connection:
        node = Node(connection)
        statements.append(connection, b"\x63new")
        statements.append(connection, pack([(ITEM, "a", 1, "e", b"\x63new")]))
        write(connection, publish(1))
        with caplog.at_level(logging.ERROR):
            node.inbox.read_on(connection, DATABASE)

    assert [b"1"] == node.numbers()
    assert 1 == len(caplog.records)
    assert "upgrade this node too" in caplog.text


def test_a_slow_loop(tmp_path: Path) -> None:
    """What the event loop has not taken bounds what is read ahead."""
    with database(tmp_path) as connection:
        node = Node(connection)
        node.inbox.waiting_bytes_max = 100
        for number in range(12):
            write(connection, publish(number))
        node.inbox.read_on(connection, DATABASE)
        ahead = len(node.got)
        node.inbox.read_on(connection, DATABASE)
        again = len(node.got)
        while len(node.got) < 12:
            node.inbox.delivered_bytes = node.inbox.read_bytes
            node.inbox.read_on(connection, DATABASE)

    assert 1 < ahead == again < 6
    assert [b"%d" % number for number in range(12)] == node.numbers()


def test_choosing_its_own(tmp_path: Path) -> None:
    """Of what it tells itself, a node takes what it would read."""
    joined = Membership(ClientInfo("c"), joined=True)
    with database(tmp_path) as connection:
        node = Node(connection)
    entries = [
        (ITEM, "a", 0, "", b""),
        (ITEM, "elsewhere", 0, "", b""),
        (CONTROL, "", 0, "", b"all"),
        (CONTROL, "you", 0, "", b"you"),
    ]

    chosen = node.inbox.select(entries, [joined, joined, None, None])

    assert [(ITEM, "a", joined), (CONTROL, "", b"all")] == chosen
