"""What pydantic says about a configuration, as the one line that a user needs."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError


def first_fault(error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any]) -> str:
    """The first fault of a configuration in one line; says how many more there are.

    Args:
        error: what pydantic found.
        model: the class of the whole configuration.
        raw: what was checked.
    """
    faults: dict[tuple[str, ...], list[_Problem]] = {}
    for details in error.errors():
        problem = _located(details, model, raw)
        faults.setdefault(problem.field, []).append(problem)
    field, problems = next(iter(faults.items()))
    # Of a value that may be of several kinds pydantic says why it is none of them. What is wrong
    # inside of it is the kind that the user meant.
    inner = [problem for problem in problems if len(problem.keys) > len(field)]
    count = len(faults) + max(0, len(inner) - 1) - 1
    more = f" ({count} more faults follow.)" if count else ""
    if len(problems) > 1 and not inner:
        return f"{_none_of(problems)}{more}"
    return f"{_described((inner or problems)[0], model, raw)}{more}"


class _Problem(NamedTuple):
    """What pydantic found, at the user's keys.

    `field` are those of the whole value; `keys` go on into it. `kind` is the one of several kinds
    of value that was tried, None where there is one only.
    """

    details: Any
    keys: tuple[str, ...]
    field: tuple[str, ...]
    kind: str | None


def _located(details: Any, model: type[BaseModel], raw: Mapping[str, Any]) -> _Problem:
    """Find the user's keys: pydantic puts the name of the loss and kinds of values between them."""
    location = list(details["loc"])
    if len(location) > 1 and location[0] == "loss" and location[1] in _tags(model):
        del location[1]
    keys: list[str] = []
    field: tuple[str, ...] | None = None
    kind: str | None = None
    value: Any = raw
    for part in location:
        entries = dict(enumerate(value)) if isinstance(value, (list, tuple)) else value
        if isinstance(entries, Mapping) and (part in entries or details["type"] == "missing"):
            keys.append(str(part))
            value = entries.get(part)
        elif field is None:
            field, kind = tuple(keys), str(part)
    return _Problem(details, tuple(keys), tuple(keys) if field is None else field, kind)


_KINDS = {
    "float": "a number",
    "list[float]": "a list of numbers",
    "dict[str,float]": "numbers by class name",
}


def _none_of(problems: Sequence[_Problem]) -> str:
    """A value that is of none of the kinds that it may be of."""
    name, value = ".".join(problems[0].field), problems[0].details["input"]
    kinds = [_KINDS.get(p.kind or "", p.kind or "") for p in problems if not _options(p.details)]
    options = [option for problem in problems for option in _options(problem.details)]
    if options:
        return f'{name} is "{value}".{_nearest(str(value), options)} Or: {", ".join(kinds)}.'
    expected = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
    return (
        f"{name} is {value!r}. Expected {expected}. Change it in the file or with --set"
        f" {name}=VALUE."
    )


def _options(details: Any) -> list[str]:
    """The words that a value could have been."""
    key = {"literal_error": "expected", "union_tag_invalid": "expected_tags"}.get(details["type"])
    if key is None:
        return []
    return [word.strip("' ") for word in details["ctx"][key].replace(" or ", ", ").split(",")]


def _described(problem: _Problem, model: type[BaseModel], raw: Mapping[str, Any]) -> str:
    details, keys = problem.details, problem.keys
    name, kind = ".".join(keys), details["type"]
    if kind == "extra_forbidden":
        return f"{name} is not a known key.{_nearest(keys[-1], _known_keys(keys, model, raw))}"
    if kind == "missing":
        remedy = f"Add it to the file or pass --set {name}=VALUE."
        return f"{name} is missing. It has no default. {remedy}"
    if details["loc"][-1] == "[key]":
        return f"{name}: {keys[-1]} is no text. The name of a class is expected. Put quotes on."
    if options := _options(details):
        value = details["input"]
        if kind == "union_tag_invalid":
            name, value = f"{name}.name", value["name"]
        return f'{name} is "{value}".{_nearest(str(value), options)}'
    if kind == "union_tag_not_found":
        return f"{name}.name is missing. Known: {', '.join(_tags(model))}. Add it."
    message = details["msg"].removeprefix("Value error, ").rstrip(".")
    shown = "" if kind == "value_error" else f" is {details['input']!r}"
    return f"{name}{shown}: {message}. Change it in the file or with --set {name}=VALUE."


def _nearest(word: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    guess = f' Did you mean "{match[0]}"?' if match else ""
    return f" Known: {', '.join(sorted(known))}.{guess}"


def _tags(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The loss names, and the section of each."""
    return {
        typing.get_args(section.model_fields["name"].annotation)[0]: section
        for section in typing.get_args(model.model_fields["loss"].annotation)
    }


def _known_keys(keys: Sequence[str], model: type[BaseModel], raw: Mapping[str, Any]) -> list[str]:
    """The keys that the section around an unknown key has."""
    section = model
    for key in keys[:-1]:
        if key == "loss":
            section = _tags(model)[raw["loss"]["name"]]
            continue
        annotation = section.model_fields[key].annotation
        options = (annotation, *typing.get_args(annotation))
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(section.model_fields)
