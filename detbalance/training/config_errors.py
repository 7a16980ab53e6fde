"""A user's YAML, read safely, and what is wrong with it as the one line that a user needs."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

# Keys and values of earlier versions: what they are called now, None where they left.
RENAMED = {
    "evaluation.score_floor": "score_threshold",
    "train.push_limit": "gradient_ratio_limit",
    "train.cycles": None,
}
RENAMED_VALUES = {"solve": "balanced_exposure"}
_DEPTH = 50  # levels; a configuration has about five


class _Loader(yaml.SafeLoader):
    """Without aliases, whose copies of copies have no end; dates are text."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _fault("an alias (*); write the value out", event)
        if self.depth == _DEPTH:
            raise _fault(f"nested deeper than {_DEPTH} levels", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        # What a value raises that is not of the kind that it looks like, or is marked as.
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise _fault(f"{str(node.value)[:40]!r} is not of the kind {kind}", node) from error


_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _fault(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def read_yaml(content: str | bytes) -> Any:
    r"""Read one YAML document."""
    text = content if isinstance(content, str) else ""
    if isinstance(content, bytes):
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            problem = f"is not {encoding.upper()} text at line {line} (byte {error.start})"
            raise ValueError(problem) from error
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"character {error.character!r}"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        problem = error.problem or error.context or "unreadable"
    raise ValueError(f"is not valid YAML at line {line} ({problem})")


def first_fault(error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any]) -> str:
    """The first fault of a configuration in one line; says how many more there are."""
    faults: dict[tuple[str, ...], list[_Problem]] = {}
    for details in error.errors():
        problem = _located(details, raw)
        faults.setdefault(problem.field, []).append(problem)
    field, problems = next(iter(faults.items()))
    # Of a value that may be of several kinds pydantic says why it is none of them. What is wrong
    # inside of it is the kind that the user meant.
    inner = [problem for problem in problems if len(problem.keys) > len(field)]
    count = len(faults) + max(0, len(inner) - 1) - 1
    more = f" ({count} more faults follow.)" if count else ""
    if len(problems) > 1 and not inner:
        return f"{_none_of(problems)}{more}"
    return f"{_described((inner or problems)[0], model)}{more}"


class _Problem(NamedTuple):
    """What pydantic found, at the user's keys."""

    details: Any
    keys: tuple[str, ...]
    field: tuple[str, ...]
    kind: str | None


def _located(details: Any, raw: Mapping[str, Any]) -> _Problem:
    """Find the user's keys: pydantic puts names of losses and kinds of values between them."""
    keys: list[str] = []
    field: tuple[str, ...] | None = None
    kind: str | None = None
    value: Any = raw
    for part in details["loc"]:
        entries = dict(enumerate(value)) if isinstance(value, (list, tuple)) else value
        if isinstance(entries, Mapping) and (part in entries or details["type"] == "missing"):
            keys.append(str(part))
            value = entries.get(part)
        elif isinstance(entries, Mapping) and part in (entries.get(tag) for tag in _TAGS):
            continue
        elif field is None:
            field, kind = tuple(keys), str(part)
    return _Problem(details, tuple(keys), tuple(keys) if field is None else field, kind)


# The keys whose value decides which other keys a section has.
_TAGS = ("name", "method")
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


def _described(problem: _Problem, model: type[BaseModel]) -> str:
    details, keys = problem.details, problem.keys
    name, kind = ".".join(keys), details["type"]
    if kind == "extra_forbidden" and name in RENAMED:
        now = RENAMED[name]
        return (
            f"{name} {f'is called {keys[0]}.{now} now. Change' if now else 'has left. Remove'} it."
        )
    if kind == "extra_forbidden":
        known = list(_sections(details["loc"][:-1], model)[0].model_fields)
        return f"{name} is not a known key.{_nearest(keys[-1], known)}"
    if kind == "missing" and keys[-1].isdigit():
        name = ".".join(keys[:-1])
        remedy = f"Change it in the file or with --set {name}=VALUE."
        return f"{name} is {details['input']!r}: more values are expected. {remedy}"
    if kind == "missing":
        remedy = f"Add it to the file or pass --set {name}=VALUE."
        return f"{name} is missing. It has no default. {remedy}"
    if details["loc"][-1] == "[key]":
        return f"{name}: {keys[-1]} is no text. The name of a class is expected. Put quotes on."
    tag = details.get("ctx", {}).get("discriminator", "").strip("'")
    if options := _options(details):
        value = details["input"]
        if kind == "union_tag_invalid":
            name, value = f"{name}.{tag}", value[tag]
        if value in RENAMED_VALUES:
            return f'{name} "{value}" is called "{RENAMED_VALUES[value]}" now. Change it.'
        return f'{name} is "{value}".{_nearest(str(value), options)}'
    if kind == "union_tag_not_found":
        known = sorted(word for s in _sections(details["loc"], model) for word in _words(s, tag))
        return f"{name}.{tag} is missing. Known: {', '.join(known)}. Add it."
    message = _EXPECTED.get(kind) or details["msg"].removeprefix("Value error, ").rstrip(".")
    shown = "" if kind == "value_error" else f" is {details['input']!r}"
    return f"{name}{shown}: {message}. Change it in the file or with --set {name}=VALUE."


# What pydantic says in the words of Python's types.
_EXPECTED = {
    **dict.fromkeys(["sequence_str", "list_type", "tuple_type"], "a list is expected"),
    **dict.fromkeys(["model_type", "dict_type"], "keys with values are expected"),
}


def _nearest(word: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    guess = f' Did you mean "{match[0]}"?' if match else ""
    return f" Known: {', '.join(sorted(known))}.{guess}"


def _sections(place: Sequence[Any], model: type[BaseModel]) -> list[type[BaseModel]]:
    """The sections that may be at a place of pydantic's: keys, and words that choose a section."""
    sections = [model]
    for part in place:
        inside = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
        chosen = [s for s in sections if any(part in _words(s, tag) for tag in _TAGS)]
        sections = [s for kind in inside for s in _models(kind)] or chosen or sections
    return list(dict.fromkeys(sections))


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections inside a type, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _words(section: type[BaseModel], tag: str) -> tuple[str, ...]:
    """The values that choose a section."""
    field = section.model_fields.get(tag)
    return () if field is None else typing.get_args(field.annotation)


def with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a checkpoint of an earlier version holds, by today's names."""

    def methods(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: methods(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [methods(inner) for inner in value]
        return RENAMED_VALUES.get(value, value) if isinstance(value, str) else value

    renamed = {key: methods(value) if key == "sampling" else value for key, value in config.items()}
    for name, new in RENAMED.items():
        section, _, key = name.partition(".")
        if isinstance(renamed.get(section), Mapping) and key in renamed[section]:
            values = dict(renamed[section])
            value = values.pop(key)
            renamed[section] = values if new is None else {**values, new: value}
    return renamed
