"""Which row of the cache a prompt gets, and whose beginning it copies."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.models.generation.places import Places, common_length

TOKENS = st.lists(st.integers(0, 1), max_size=12)


@given(some=TOKENS, others=TOKENS)
def test_the_common_length_is_that_of_the_common_beginning(
    some: list[int], others: list[int]
) -> None:
    expected = 0
    for one, other in zip(some, others, strict=False):
        if one != other:
            break
        expected += 1
    assert common_length(some, others) == expected


def filled(*tokens: list[int]) -> Places:
    places = Places(len(tokens))
    for held in tokens:
        place = places.take([], 1)
        assert place is not None
        place.tokens = held
    for number in range(len(tokens)):
        places.free(places[number])
    return places


def test_a_prompt_takes_the_place_of_its_earlier_turn() -> None:
    places = filled([1, 2], [3, 4, 5], [3, 9])
    place = places.take([3, 4, 5, 6], 2)
    assert place is places[1]


def test_a_place_that_only_begins_alike_is_kept_for_others() -> None:
    places = filled([7, 7], [3, 4, 5, 8], [3, 4])
    assert places.take([3, 4, 5, 6], 3) is places[0], "the one that was used longest ago"
    source, common = places.source([3, 4, 5, 6], places[0], whole=False)
    assert (source, common) == (places[1], 3)


def test_its_own_place_is_preferred_to_one_that_would_be_copied() -> None:
    places = filled([3, 4], [3, 4])
    assert places.source([3, 4, 5], places[1], whole=False)[0] is places[1]


def test_in_exact_mode_only_whole_chunks_count() -> None:
    places = filled([3, 4, 5, 6], [3, 4])
    places[0].computed = 2
    assert places.source([3, 4, 5, 6], places[1], whole=True) == (places[0], 2)


def test_no_place_is_given_twice() -> None:
    places = Places(2)
    taken = [places.take([1], 1), places.take([1], 1)]
    assert taken[0] is not taken[1]
    assert places.take([1], 1) is None
