"""What pydantic says about a configuration, as the one line that a user needs."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError


def first_fault(error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any]) -> str:
    """The first fault of a configuration in one line; says how many more there are.

    Args:
        error: what pydantic found.
        model: the class of the whole configuration.
        raw: what was checked.
    """
    problems = error.errors()
    problem = problems[0]
    keys = [str(k) for k in problem["loc"]]
    if len(keys) > 1 and keys[0] == "loss" and keys[1] in _tags(model):
        del keys[1]  # the tag of the union ("focal") is no key of the user's file
    name = ".".join(keys)
    kind = problem["type"]
    more = f" ({len(problems) - 1} more faults follow.)" if len(problems) > 1 else ""
    if kind == "extra_forbidden":
        known = _known_keys(keys, model, raw)
        return f"{name} is not a known key.{_nearest(keys[-1], known)}{more}"
    if kind == "missing":
        remedy = f"Add it to the file or pass --set {name}=VALUE."
        return f"{name} is missing. It has no default. {remedy}{more}"
    if kind in {"literal_error", "union_tag_invalid"}:
        value = problem["input"]
        if kind == "union_tag_invalid":
            name, value = f"{name}.name", value["name"]
        expected = problem["ctx"]["expected" if kind == "literal_error" else "expected_tags"]
        known = [w.strip("' ") for w in expected.replace(" or ", ", ").split(",")]
        return f'{name} is "{value}".{_nearest(str(value), known)}{more}'
    if kind == "union_tag_not_found":
        known = list(_tags(model))
        return f"{name}.name is missing. Known: {', '.join(known)}. Add it.{more}"
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    shown = "" if kind == "value_error" else f" is {problem['input']!r}"
    return f"{name}{shown}: {message}. Change it in the file or with --set {name}=VALUE.{more}"


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
