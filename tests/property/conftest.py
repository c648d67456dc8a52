"""Hypothesis: as many examples as each test says, however slow the machine is."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine generates slowly; that is no fault of a test.
settings.register_profile(
    "wirebell", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("wirebell")
