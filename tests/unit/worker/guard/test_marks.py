"""What a process leaves behind of the models it ran."""

from __future__ import annotations

import os

from worker.guard.marks import Evidence, Marks, Ran, shared_file

NOTHING = Evidence(None, [], frozenset(), frozenset())


def test_a_block_that_nobody_wrote_says_nothing() -> None:
    assert Marks().read() == NOTHING
    marks = Marks()
    marks.words[marks.take_slot()] = marks.call("infer", "unnamed")
    marks.blame("load", "unnamed")
    marks.loaded("unnamed")
    assert marks.read() == NOTHING


def test_calls_that_run_are_told_from_those_that_ended() -> None:
    marks = Marks()
    marks.name(["a", "b"])
    first, second = marks.take_slot(), marks.take_slot()
    marks.words[first] = marks.call("decode", "a")
    marks.words[second] = marks.call("infer", "b")
    marks.loaded("b")
    marks.reset("a")
    assert set(marks.read().running) == {Ran("decode", "a"), Ran("infer", "b")}
    marks.words[first] = 0
    marks.blame("warm-up", "a")
    assert marks.read() == Evidence(
        Ran("warm-up", "a"), [Ran("infer", "b")], frozenset({"b"}), frozenset({"a"})
    )
    marks.say_goodbye()
    assert marks.read().orderly
    marks.clear()
    assert marks.read() == NOTHING


def test_more_threads_than_slots_share_the_last_and_abandoned_ones_are_used_again() -> None:
    marks = Marks()
    marks.name(["m"])
    taken = [marks.take_slot() for _ in range(100)]
    assert len(set(taken)) == 60
    marks.give_back(taken[0])
    assert marks.take_slot() == taken[0]


def test_more_models_than_there_is_room_for_are_cut_off() -> None:
    marks = Marks()
    names = [f"{n:0>90}" for n in range(2000)]
    marks.name(names)
    marks.words[marks.take_slot()] = marks.call("infer", names[0])
    assert marks.read().running == [Ran("infer", names[0])]
    marks.words[marks.take_slot()] = marks.call("infer", names[-1])
    assert marks.read().running == [Ran("infer", names[0])]


def test_who_maps_the_same_file_reads_what_the_other_has_written() -> None:
    file = shared_file()
    writer, reader = Marks(file), Marks(file)
    writer.name(["m"])
    writer.beat()
    writer.words[writer.take_slot()] = writer.call("load", "m")
    assert (reader.read().running, reader.beats) == ([Ran("load", "m")], 1)
    os.close(file)
