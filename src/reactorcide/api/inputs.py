"""From JSON and query strings to typed values, with every fault of the form at once."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from reactorcide.api.strict_json import escape_pointer
from reactorcide.domain.errors import InputFault, InvalidInput

_TRUTHS = {"true": True, "false": False}


class Input(BaseModel):
    """A body or a query: exact types, and no field that nobody reads."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str, str]]:
        """Name what was given, never its value: secrets come this way, and errors show their objects."""
        return ((name, "...") for name in sorted(self.model_fields_set))

    def given(self) -> dict[str, Any]:
        """Return the fields that were sent; what was not sent is for the caller's default."""
        return {name: getattr(self, name) for name in self.model_fields_set}


I = TypeVar("I", bound=Input)  # noqa: E741


def read_input(kind: type[I], value: object) -> I:
    """Return a parsed body as ``kind``.

    Raises:
        InvalidInput: with every fault of form.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InvalidInput(faults_of(error, kind)) from None


def faults_of(error: ValidationError, kind: type[BaseModel]) -> list[InputFault]:
    """Return what a validation found, in our words and with JSON pointers."""
    return [
        _fault(entry["type"], entry["loc"], entry["msg"], entry.get("ctx"), kind) for entry in error.errors()
    ]


def _fault(
    kind: str,
    place: tuple[int | str, ...],
    text: str,
    facts: Mapping[str, Any] | None,
    model: type[BaseModel],
) -> InputFault:
    names = [str(part) for part in place if part != "[key]"]
    pointer = "".join(f"/{escape_pointer(name)}" for name in names)
    match kind:
        case "missing":
            return InputFault(pointer, "is required")
        case "extra_forbidden":
            return InputFault(pointer, f"is not a known field{_suggest(names[-1], _names_at(model, names))}")
        case "model_type" | "model_attributes_type" | "dict_type":
            return InputFault(pointer, "must be an object")
        case "int_type" | "int_from_float":
            return InputFault(pointer, "must be a whole number")
        case "literal_error":
            return InputFault(pointer, f"must be one of {(facts or {}).get('expected', '')}")
        case "value_error":
            return InputFault(pointer, str((facts or {}).get("error", text)))
    return InputFault(
        pointer, text.replace("Input should be a valid", "must be a").replace("Input should", "must")
    )


def _names_at(model: type[BaseModel], names: list[str]) -> Iterable[str]:
    """Return the fields known where the last of ``names`` was found."""
    for name in names[:-1]:
        entry = model.model_fields.get(name)
        if (
            entry is None
            or not isinstance(entry.annotation, type)
            or not issubclass(entry.annotation, BaseModel)
        ):
            return ()
        model = entry.annotation
    return model.model_fields


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:64], list(known), n=1)
    return f": did you mean {close[0]}?" if close else ""


def read_query(request: Request, *known: str, many: Iterable[str] = ()) -> "Query":
    """Return the query of ``request``, in which only these parameters may stand, each once or ``many``."""
    return Query(request, (*known, *many), frozenset(many))


class Query:
    """A query string being read; `close` raises every fault found on the way.

    A reader returns None where the parameter is absent or faulty.
    """

    def __init__(self, request: Request, known: tuple[str, ...], many: frozenset[str]) -> None:
        self.faults: list[InputFault] = []
        self._values: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            if name not in known:
                self.refuse(name, f"is not a known parameter{_suggest(name, known)}")
            elif "\0" in value or "\ufffd" in value:
                self.refuse(name, "must be UTF-8 without NUL")
            else:
                self._values.setdefault(name, []).append(value)
        for name, values in self._values.items():
            if len(values) > 1 and name not in many:
                self.refuse(name, "must come once")

    def refuse(self, name: str, detail: str) -> None:
        """Note a fault of a parameter."""
        self.faults.append(InputFault(f"?{name[:64]}", detail))

    def close(self) -> None:
        """End the reading.

        Raises:
            InvalidInput: with every fault found.
        """
        if self.faults:
            raise InvalidInput(self.faults)

    def has(self, name: str) -> bool:
        """Tell whether the parameter was sent."""
        return name in self._values

    def all(self, name: str) -> list[str]:
        """Return every value of a parameter that may come many times."""
        return self._values.get(name, [])

    def text(self, name: str) -> str | None:
        """Return a parameter as it came."""
        values = self._values.get(name)
        return values[0] if values else None

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number within bounds."""
        text = self.text(name)
        if text is None:
            return None
        digits = text.removeprefix("-")
        if digits.isascii() and digits.isdecimal() and len(digits) <= 19 and low <= int(text) <= high:
            return int(text)
        self.refuse(name, f"must be a whole number from {low} to {high}")
        return None

    def truth(self, name: str) -> bool:
        """Return a flag; absent is false."""
        text = self.text(name)
        if text is not None and text not in _TRUTHS:
            self.refuse(name, "must be true or false")
        return _TRUTHS.get(text or "", False)

    def one_of(self, name: str, choices: Iterable[str]) -> str | None:
        """Return one of ``choices``."""
        text = self.text(name)
        if text is not None and text not in choices:
            self.refuse(name, f"must be one of {', '.join(choices)}")
            return None
        return text
