"""The server's clock as a process knows it, whatever its own does."""

from __future__ import annotations

from api.background.server_clock import ServerClock


def test_time_goes_on_by_the_steady_clock_from_what_the_server_said() -> None:
    steady, own = [50.0], [1_000.0]
    clock = ServerClock(lambda: steady[0], lambda: own[0])
    assert clock.now_ms() == 1_000_000, "its own, until it knows better"
    clock.read(7_200_000)
    steady[0] += 1.5
    own[0] -= 3_600  # somebody sets it back
    assert clock.now_ms() == 7_201_500
    clock.read(7_000_000)
    assert clock.now_ms() == 7_000_000
