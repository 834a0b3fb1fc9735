"""Applies what a server streams to a job's answer, also where an answer was begun before.

A server that ends amid an answer is asked to go on from what was said, as if it had said it, where
it can. Where it cannot, it answers once more from the beginning: what readers have seen is left
out, and an answer that is another one ends the job, as nobody could take the first half back.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import AnswerLost
from worker.models.generation.server_engines import can_continue
from worker.models.generation.server_events import Characters, Event
from worker.models.generation.server_options import EngineName
from worker.models.remote import Answer, Delta, Emit, Spoken


@dataclass(slots=True)
class _Repeat:
    """What a choice is to say again before anything new counts."""

    text: str = ""
    count: int = 0
    heard: str = ""
    heard_count: int = 0


class Telling:
    """One attempt at an answer."""

    def __init__(self, engine: EngineName, answer: Answer, emit: Emit) -> None:
        self._engine, self._answer, self._emit = engine, answer, emit
        self._characters = [Characters() for _ in answer.choices]
        self._repeats = [_Repeat() for _ in answer.choices]
        self._continued = 0
        """Tokens that this attempt's prompt ends with and the answer begins with."""

    def begin(self) -> Spoken:
        """Echo the prompt where that was asked for; returns what the server is to go on from."""
        answer = self._answer
        if not answer.begun:
            answer.begun = True
            if echoed := answer.request.echoed:
                for index in range(len(answer.choices)):
                    self._emit(Delta(index, echoed))
        first = answer.choices[0]
        if not any(choice.text or choice.finish for choice in answer.choices):
            return Spoken()
        if can_continue(self._engine, answer.request, first):
            self._continued = first.count
            if first.count >= answer.request.options.max_tokens and not first.finish:
                first.finish = "length"
                self._emit(Delta(0, "", finish="length"))
            return first
        if answer.streamed:
            self._repeats = [_Repeat(one.text, one.count) for one in answer.choices]
        else:
            answer.choices = [Spoken() for _ in answer.choices]
        return Spoken()

    def take(self, event: Event) -> None:
        """Apply one event; tells what is new. Raises AnswerLost where it says something else."""
        if event.prompt_tokens is not None:
            self._answer.prompt_tokens = event.prompt_tokens - self._continued
        for delta in event.deltas:
            self._apply(delta)
        if event.usage is not None:
            prompt, completion = event.usage
            self._answer.prompt_tokens = max(0, prompt - self._continued)
            self._answer.completion_tokens = completion + self._continued

    def _apply(self, delta: Delta) -> None:
        choice = self._answer.choices[delta.choice]
        if choice.finish:
            return
        text = self._characters[delta.choice].feed(delta.text, last=delta.finish is not None)
        logprobs = _cut(delta, self._answer.request.options.logprobs)
        number = len(delta.tokens) or len(logprobs) or int(bool(delta.text))
        tokens = delta.tokens
        repeat = self._repeats[delta.choice]
        if repeat.heard_count < repeat.count or len(repeat.heard) < len(repeat.text):
            known = min(number, max(0, repeat.count - repeat.heard_count))
            text = _unheard(repeat, text, number)
            tokens, logprobs, number = tokens[known:], logprobs[known:], number - known
            if delta.finish is not None and len(repeat.heard) < len(repeat.text):
                raise _lost()
        choice.text += text
        choice.tokens += tokens
        choice.count += number
        choice.logprobs += logprobs
        finish = delta.finish
        if finish is None and choice.count > self._answer.request.options.max_tokens:
            finish = "length"  # it does not keep to what it was asked for, and might never end
        choice.finish = finish or ""
        if text or tokens or logprobs or finish:
            self._emit(Delta(delta.choice, text, tokens, logprobs, finish))


def _cut(delta: Delta, most: int | None) -> tuple[dict[str, object], ...]:
    if most is None:
        return ()
    return tuple({**one, "top": one["top"][:most]} for one in delta.logprobs)


def _unheard(repeat: _Repeat, text: str, number: int) -> str:
    """The part of the text that goes beyond what was said before."""
    before = len(repeat.heard)
    repeat.heard += text
    repeat.heard_count += number
    both = min(len(repeat.heard), len(repeat.text))
    if repeat.heard[before:both] != repeat.text[before:both]:
        raise _lost()
    return repeat.heard[max(before, len(repeat.text)) :]


def _lost() -> AnswerLost:
    return AnswerLost(
        "the model's server ended amid the answer, and its second answer differs from what was "
        "streamed of the first; send the job again"
    )
