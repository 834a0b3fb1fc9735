"""The tokenizer of a model, and the bytes of each of its tokens.

Text is put together from bytes rather than by the tokenizer, which gives characters: of half a
character it says U+FFFD. Two kinds of vocabulary are read, those of GPT-2 (a printable character
for each byte) and of SentencePiece (pieces with U+2581 for a space, and bytes as <0x0A>); that is
nearly all there are of these networks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError

__all__ = ("Vocabulary", "read_vocabulary")

_BYTE = re.compile(r"^<0x([0-9A-F]{2})>$")
_SPACE = "\u2581"


class Vocabulary:
    """Text to tokens and back."""

    def __init__(self, tokenizer: Any, pieces: list[bytes], special: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._shown = pieces
        self.special = special
        self.text_bytes = [b"" if token in special else piece for token, piece in enumerate(pieces)]
        """By token, what it adds to a text: nothing, if it is a special one."""

    def __len__(self) -> int:
        return len(self._shown)

    def tokens_of(self, text: str, *, add_special: bool) -> list[int]:
        """add_special: with what the tokenizer puts before and behind a text."""
        ids: list[int] = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special)[
            0
        ].ids
        return ids

    def text_of(self, tokens: list[int]) -> str:
        """All of a text; half a character at an end becomes U+FFFD."""
        known = len(self.text_bytes)
        whole = b"".join(self.text_bytes[token] for token in tokens if token < known)
        return whole.decode("utf-8", "replace")

    def shown(self, token: int) -> str:
        """One token for people, special ones too."""
        return self._shown[token].decode("utf-8", "replace") if token < len(self._shown) else ""

    def find(self, piece: str) -> int | None:
        """The token of a piece, such as a special one's name."""
        token: int | None = self._tokenizer.token_to_id(piece)
        return token


def read_vocabulary(path: Path, model: str) -> Vocabulary:
    """Of a tokenizer.json. Raises ConfigurationError where its text cannot be put together."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    written = json.loads(path.read_text(encoding="utf-8"))
    kinds = _decoder_kinds(written.get("decoder") or {})
    if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
        raise ConfigurationError(
            f"models.{model}.weights: {path} has a decoder ({', '.join(sorted(kinds))}) "
            "that the embedded decoder does not know; serve this model with "
            "`handler: openai-server`"
        )
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    added = {one["id"]: one for one in written.get("added_tokens", ())}
    pieces = [b""] * (max(vocabulary.values()) + 1)
    as_bytes = _bytes_of_characters() if "ByteLevel" in kinds else None
    for piece, token in vocabulary.items():
        pieces[token] = piece.encode() if token in added else _bytes_of(piece, as_bytes)
    special = frozenset(token for token, one in added.items() if one.get("special"))
    return Vocabulary(tokenizer, pieces, special)


def _decoder_kinds(decoder: dict[str, Any]) -> set[str]:
    """Its type, and those of its parts."""
    parts = decoder.get("decoders", ())
    return {str(decoder.get("type"))}.union(*(_decoder_kinds(part) for part in parts))


def _bytes_of(piece: str, as_bytes: dict[str, int] | None) -> bytes:
    if as_bytes is not None:
        if all(character in as_bytes for character in piece):
            return bytes(as_bytes[character] for character in piece)
        return piece.encode()
    if found := _BYTE.match(piece):
        return bytes([int(found[1], 16)])
    return piece.replace(_SPACE, " ").encode()


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others lie from U+0100 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    found = {chr(byte): byte for byte in printable}
    return found | {chr(0x100 + place): byte for place, byte in enumerate(others)}
