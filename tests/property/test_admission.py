"""Admission: limits are never passed, and everything returns to nothing."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings, strategies as st

from wirebell.admission import Admission
from wirebell.settings import Settings

LIMITS = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.sampled_from(["", "x", "y"]), st.floats(0, 3)),
        st.tuples(st.just("release"), st.just(""), st.floats(0, 3)),
        st.tuples(st.just("user"), st.sampled_from(["ann", "bob"]), st.just(0.0)),
        st.tuples(st.just("release user"), st.just(""), st.just(0.0)),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(total=LIMITS, address=LIMITS, user=LIMITS, second=LIMITS, steps=STEPS)
def test_limits(
    total: int, address: int, user: int, second: int, steps: list[tuple[str, str, float]]
) -> None:
    """A refusal comes exactly when a limit is reached; who leaves frees what it took."""
    admission = Admission(
        Settings(
            connections_max=total,
            connections_per_address_max=address,
            connections_per_user_max=user,
            connections_per_second_max=second,
        )
    )
    peers: list[str] = []
    users: list[str] = []
    admitted_at: Counter[int] = Counter()
    now = 0.0

    for action, name, seconds in steps:
        if action == "admit":
            now += seconds
            refusal = admission.admit(name, now)
            is_full = (
                0 < total <= len(peers)
                or (name != "" and 0 < address <= peers.count(name))
                or 0 < second <= admitted_at[int(now)]
            )
            assert is_full == (refusal is not None)
            if refusal is None:
                peers.append(name)
                admitted_at[int(now)] += 1
        elif action == "user":
            refusal = admission.admit_user(name)
            assert (0 < user <= users.count(name)) == (refusal is not None)
            if refusal is None:
                users.append(name)
        elif action == "release" and peers:
            admission.release(peers.pop(0))
        elif action == "release user" and users:
            admission.release_user(users.pop(0))
        assert (len(peers), Counter(peers), Counter(users)) == (
            admission.connection_count,
            admission.by_address,
            admission.by_user,
        )

    for name in peers:
        admission.release(name)
    for name in users:
        admission.release_user(name)
    assert (0, {}, {}) == (admission.connection_count, admission.by_address, admission.by_user)
