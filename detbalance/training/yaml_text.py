"""YAML of a user, read so that nothing in it can hang or crash, and every fault has its line."""

from __future__ import annotations

from typing import Any

import yaml

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
            raise ValueError(
                f"is not {encoding.upper()} text at line {line} (byte {error.start})"
            ) from error
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
