"""The result of a text generation job, as JSON; the same for every engine."""

from __future__ import annotations

from typing import Any

from worker.models.generator import Generated

__all__ = ("result_of",)


def result_of(output: Generated) -> dict[str, Any]:
    """`text` and `finish_reason` are those of the first choice."""
    prompt, choices = output.prompt, output.choices
    first = choices[0]
    said = sum(len(choice.tokens) for choice in choices)
    result: dict[str, Any] = {
        "text": first.text,
        "finish_reason": first.finish,
        "usage": {
            "prompt_tokens": len(prompt.tokens),
            "completion_tokens": said,
            "total_tokens": len(prompt.tokens) + said,
        },
        "seed": prompt.seed,
    }
    if prompt.options.n > 1 or prompt.options.logprobs is not None:
        named = prompt.options.logprobs is not None
        result["choices"] = [
            {
                "text": choice.text,
                "finish_reason": choice.finish,
                **({"logprobs": choice.logprobs} if named else {}),
            }
            for choice in choices
        ]
    return result
