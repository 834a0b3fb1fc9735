"""A circuit's pauses, however long a server is away."""

from __future__ import annotations

from worker.models.generation.server_circuit import Circuit


def test_a_server_that_is_away_for_long_is_asked_every_half_minute() -> None:
    circuit, now = Circuit(8), 0.0
    for _ in range(3_000):  # 2.0**1024 raised, and the request had no end
        now += 40
        pause = circuit.failed(now, now)
    assert pause == 30
    assert circuit.room(now) == 0
    assert circuit.room(now + 31) == 1
    circuit.succeeded()
    assert circuit.room(now + 31) == 8
