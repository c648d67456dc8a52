"""Every broker that nodes can share, against every guarantee that two of them have together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.contract.cases import CASES, SHARED, Create, list_params
from tests.contract.shared_memory import SharedMemory
from wirebell.testing import (
    SHARED_GUARANTEES,
    SharedNode,
    check_shared_broker,
    run_shared_node,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=list_params(SHARED))
def create(request: pytest.FixtureRequest) -> Iterator[Create]:
    """Make brokers and stores of one kind; what they need runs as long as the module."""
    with CASES[request.param]() as created:
        yield created


@pytest.mark.parametrize("guarantee", SHARED_GUARANTEES, ids=lambda check: check.__name__)
async def test_shared_broker(
    create: Create, guarantee: Callable[[SharedNode, SharedNode], Awaitable[None]]
) -> None:
    """Two nodes on one broker hold a guarantee together."""
    async with run_shared_node(create) as one, run_shared_node(create) as other:
        await guarantee(one, other)


async def test_check_shared_broker() -> None:
    """The one call that proves a broker takes two fresh nodes for each guarantee."""
    memory = SharedMemory()

    await check_shared_broker(memory.create)

    assert 2 * len(SHARED_GUARANTEES) == memory.created_count


def test_every_guarantee_says_what_it_is() -> None:
    """A guarantee has a sentence of its own: it is what a failing broker's author reads."""
    sentences = [check.__doc__ for check in SHARED_GUARANTEES]

    assert None not in sentences
    assert len(set(sentences)) == len(sentences)
