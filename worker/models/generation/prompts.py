"""Turns a job's input and options into a Prompt that fits the model's context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from common.errors import InvalidInput, PromptTooLong
from common.generation.options import GenerateOptions, read_options
from worker.models.generation.chat_template import ChatTemplate
from worker.models.generation.grammar import Grammars
from worker.models.generation.messages import Request, read_request
from worker.models.generation.tokens import Vocabulary
from worker.models.generator import Prompt

__all__ = ("Given", "PromptReader")


class Given(NamedTuple):
    """What a Prompt keeps of its request, as `extra`."""

    text: str | None
    """The prompt, where it came as a text."""
    grammar: Any
    """The compiled `json_schema`, where there is one."""


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Of one model. Any thread may call it."""

    model: str
    vocabulary: Vocabulary
    outputs: int
    """Tokens that the network tells apart."""
    context: int
    begin: int | None
    """Stands for an empty prompt."""
    names: Mapping[str, str]
    """Special tokens by the names that templates use."""
    template: ChatTemplate | None
    grammars: Grammars

    def read(self, value: Any, params: Mapping[str, Any]) -> Prompt:
        """Raises InvalidInput; PromptTooLong for more than fits."""
        options = read_options(params)
        request = read_request(value)
        self._check_biases(options)
        if options.min_tokens > options.max_tokens:
            raise InvalidInput("params.min_tokens is above max_tokens")
        tokens = self._fitted(self._tokens(request), options)
        schema = options.json_schema
        grammar = None if schema is None else self.grammars.compile(schema)
        return Prompt(tuple(tokens), options, extra=Given(request.prompt, grammar))

    def _tokens(self, request: Request) -> Sequence[int]:
        tokens: Sequence[int]
        if request.tokens is not None:
            tokens = request.tokens
            wrong = next((one for one in tokens if not 0 <= one < self.outputs), None)
            if wrong is not None:
                shown = str(wrong)[:20]
                raise InvalidInput(f"{shown} is no token of {self.model}, which has {self.outputs}")
        elif request.messages is not None:
            tokens = self.vocabulary.tokens_of(self._filled(request.messages), add_special=False)
        else:
            tokens = self.vocabulary.tokens_of(request.prompt or "", add_special=True)
        if not tokens and self.begin is not None:
            return [self.begin]
        if not tokens:
            raise InvalidInput("the prompt is empty, which this model cannot go on from")
        return tokens

    def _filled(self, messages: list[dict[str, Any]]) -> str:
        if self.template is None:
            raise InvalidInput(
                f"{self.model} has no chat template; send a `prompt` in place of `messages`"
            )
        return self.template.fill(messages, self.names)

    def _fitted(self, tokens: Sequence[int], options: GenerateOptions) -> Sequence[int]:
        """At least one token must fit behind the prompt; where it is cut, all of them or half of
        the context."""
        excess = len(tokens) + 1 - self.context
        if excess <= 0:
            return tokens
        if not options.truncate:
            raise PromptTooLong(
                f"the prompt has {len(tokens):,} tokens, {excess:,} too many: the context of "
                f"{self.model} is {self.context:,} with at least one token of the answer; send "
                "less, or `truncate: true` to have it cut from the left"
            )
        return tokens[len(tokens) - self.context + min(options.max_tokens, self.context // 2) :]

    def _check_biases(self, options: GenerateOptions) -> None:
        for token in options.logit_bias:
            if int(token) >= self.outputs:
                raise InvalidInput(
                    f"params.logit_bias: {token!r} is no token id; those of {self.model} are "
                    f"0 to {self.outputs - 1}"
                )
