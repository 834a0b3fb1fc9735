"""What was revoked by stamps is compared as Celery does, and bounded."""

from __future__ import annotations

from worker.celery_integration.revoked_stamps import RevokedStamps


def test_any_value_of_a_revoked_stamp_matches() -> None:
    stamps = RevokedStamps()
    assert not stamps.match({"batch": "b1"})
    stamps.add({"batch": ["b1", "b2"], "user": 7})
    for revoked in ({"batch": "b1"}, {"batch": ["x", "b2"]}, {"user": 7}, {"user": "7"}):
        assert stamps.match(revoked)
    for other in ({"batch": "b3"}, {"user": "b1"}, {"batch": []}, {}):
        assert not stamps.match(other)


def test_the_oldest_are_forgotten_first() -> None:
    stamps = RevokedStamps(max_stamps=2)
    for value in ("one", "two", "one", "three"):
        stamps.add({"batch": value})
    assert stamps.match({"batch": "one"}), "it was said again"
    assert not stamps.match({"batch": "two"})
    assert stamps.match({"batch": "three"})
