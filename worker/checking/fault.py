"""A model that does not keep the contract: what it did, where, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping

from common.errors import ConfigurationError, FleetError, name_of, text_of

__all__ = ("CONTRACT", "Fault", "fault_of")

_PAGE = "docs/models.md#writing-your-own-model"
CONTRACT: Mapping[str, str] = {
    "load": "`load(spec, device)` reads weights, and raises ConfigurationError with what to change",
    "decode": "`decode(value, params)` returns an item, and raises InvalidInput for an input "
    "that it does not take",
    "cost": "`cost(item)` returns a finite number, not below 0: tokens, pixels, or 1",
    "infer": "`infer(items)` returns a list of one output for each item, in order",
    "encode": "`encode(output)` returns what JSON can represent, without NaN and infinity",
    "example": "`example()` returns an input for `decode`",
}
_MOST_CHARACTERS = 400


class Fault(Exception):
    """One sentence for the author; `where` is a line of theirs."""

    def __init__(self, what: str, verb: str = "", where: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.verb = verb
        self.where = where

    def sentence(self) -> str:
        """Line, what happened, what is asked."""
        where = f"{self.where}: " if self.where else ""
        asked = CONTRACT.get(self.verb, "")
        if not asked:
            return f"{where}{self.what}"
        also = "" if "must return" in self.what else f"; {asked}"
        return f"{where}{self.what}{also} ({_PAGE})"


def fault_of(error: BaseException, verb: str, where: str) -> Fault:
    """The fault of a verb that raised."""
    said = text_of(error)[:_MOST_CHARACTERS].strip()
    if issubclass(type(error), ConfigurationError):
        return Fault(said, "", where if verb else "")
    name = "" if issubclass(type(error), FleetError) else name_of(error)
    detail = ": ".join(filter(None, (name, said)))
    return Fault(f"{verb} raised {detail}", verb, where)
