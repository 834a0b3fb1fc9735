"""The embedded engine: text generation in plain torch, with continuous batching.

It has one network (`network.py`), one batch of rows (`batch.py`) and a sampler with every option
of a request (`sampling.py`). What it cannot run it refuses at load, and names the other engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.catalog import ModelSpec
from worker.devices.torch_import import deferring
from worker.models.converted import ready_folder
from worker.models.generation.grammar import Matched
from worker.models.generation.options import read_decoder_options
from worker.models.generation.prompts import Given
from worker.models.generation.result import result_of
from worker.models.generation.text import ChoiceText
from worker.models.generator import Advance, Generated, Prompt, Text
from worker.models.requirements import missing_package
from worker.models.weights import find_weights

if TYPE_CHECKING:
    from worker.models.generation.loading import Loaded
    from worker.models.generation.sampling import Sampling

__all__ = ("Decoder",)


class Decoder:
    """Generates text, a token a step for every row."""

    def __init__(self) -> None:
        self.slots = 0
        self.budget_tokens = 0
        self._loaded: Loaded | None = None

    def load(self, spec: ModelSpec, device: str) -> None:
        """Read config.json, the safetensors and tokenizer.json of the weights' folder.

        A gguf file in its place is converted first, once. options: those of DecoderOptions.
        """
        options = read_decoder_options(spec)
        try:
            with deferring():
                import safetensors  # noqa: F401  before the weights, so that it is named first
                import tokenizers  # noqa: F401

                from worker.models.generation.loading import load_folder
        except ImportError as exc:
            raise missing_package(spec.name, exc) from exc
        folder = ready_folder(find_weights(spec.weights), spec)
        self._loaded = load_folder(folder, spec, options, device)
        self.slots = options.slots
        context = self._loaded.prompts.context
        self.budget_tokens = options.kv_tokens or options.slots * context

    def decode(self, value: Any, params: Mapping[str, Any]) -> Prompt:
        """Tokens and options of one job."""
        return self._model.prompts.read(value, params)

    def cost(self, prompt: Prompt) -> float:
        """Columns of the cache that its rows may come to take."""
        most = len(prompt.tokens) + prompt.options.max_tokens
        return float(prompt.options.n * min(most, self._model.prompts.context))

    def admit(self, prompt: Prompt) -> Sequence[int]:
        """A row for each choice: all of them, or none."""
        batch = self._model.batch
        rows: list[int] = []
        try:
            for choice in range(prompt.options.n):
                said = prompt.said.get(choice, ())
                rows.append(batch.admit(prompt.tokens, said, self._sampling(prompt, choice)))
        except BaseException:
            for row in rows:
                batch.drop(row)
            raise
        return rows

    def step(self) -> Sequence[Advance]:
        """One pass of the network."""
        return self._model.batch.step()

    def drop(self, row: int) -> None:
        """Free a row."""
        self._model.batch.drop(row)

    def text(self, prompt: Prompt, choice: int) -> Text:  # noqa: ARG002  the protocol's signature
        """Begins with the prompt where `echo` asks for it."""
        model, before = self._model, ""
        if prompt.options.echo:
            given = prompt.extra.text if isinstance(prompt.extra, Given) else None
            before = given or model.prompts.vocabulary.text_of(list(prompt.tokens))
        ends = frozenset(model.ends)
        return ChoiceText(model.prompts.vocabulary.text_bytes, ends, prompt.options, before)

    def token_text(self, token: int) -> str:
        """One token as text, special ones too."""
        return self._model.prompts.vocabulary.shown(token)

    def encode(self, output: Generated) -> dict[str, Any]:
        """The result of a job."""
        return result_of(output)

    def example(self) -> str:
        """The beginning of a sentence, to warm up with."""
        return "The sun rises in the"

    def unload(self) -> None:
        """End the process that fills chat templates."""
        if self._loaded is not None and self._loaded.prompts.template is not None:
            self._loaded.prompts.template.close()

    @property
    def _model(self) -> Loaded:
        assert self._loaded is not None
        return self._loaded

    def _sampling(self, prompt: Prompt, choice: int) -> Sampling:
        from worker.models.generation.sampling import Sampling

        model = self._model
        compiled = prompt.extra.grammar if isinstance(prompt.extra, Given) else None
        return Sampling(
            prompt.options,
            prompt.seed,
            choice,
            model.prompts.outputs,
            model.ends,
            None if compiled is None else Matched(compiled),
        )
