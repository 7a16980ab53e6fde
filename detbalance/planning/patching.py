"""The recommended sections in the text of a configuration; the rest stays, byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def patched(text: str, config: Mapping[str, Mapping[str, Any]]) -> str:
    """Put sections into a YAML text: `sampling` as a whole, of `augmentation` the paste.

    Args:
        text: of a configuration, a mapping of sections in block style.
        config: as `Recommendation.config`. Without `augmentation.paste` a paste that is there goes.

    Returns:
        The new text; comments outside what is replaced stay.

    Raises:
        ValueError: if the text is no such mapping.
    """
    import yaml

    wanted = dict(_loaded(text))
    unusual = ValueError(
        "is not written section by section. A mapping in block style, as in configs/, is expected."
        " Put the lines in by hand."
    )
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode) and root.flow_style:
        raise unusual
    paste = config.get("augmentation", {}).get("paste")
    augmentation = {k: v for k, v in (wanted.get("augmentation") or {}).items() if k != "paste"}
    if paste is not None:
        augmentation = {"paste": dict(paste), **augmentation}
    wanted["sampling"] = dict(config["sampling"])
    if augmentation or "augmentation" in wanted:
        wanted["augmentation"] = augmentation
    new = _with_section(text, "sampling", wanted["sampling"])
    if wanted.get("augmentation") != _loaded(text).get("augmentation"):
        new = _with_section(new, "augmentation", wanted["augmentation"])
    if yaml.safe_load(new) != wanted:
        raise unusual
    return new


def _loaded(text: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise ValueError(
            f"is not YAML (line {line}). A configuration is expected. Mend it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError("holds no sections. A configuration is expected. Name another file.")
    return content


def _with_section(text: str, name: str, values: Mapping[str, Any]) -> str:
    """The text with a section replaced, or put at its end."""
    import yaml

    section = yaml.safe_dump({name: dict(values)}, sort_keys=False, allow_unicode=True)
    lines = text.splitlines(keepends=True)
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)  # checked before
    for key, value in root.value:
        if key.value == name:
            first, last = key.start_mark.line, max(key.start_mark.line, value.end_mark.line)
            if value.end_mark.column:  # ends within a line
                last += 1
            # Empty lines and comments behind the section belong to what follows.
            while last > first + 1 and _is_blank(lines[last - 1]):
                last -= 1
            return "".join([*lines[:first], section, *lines[last:]])
    joined = text if text.endswith("\n") or not text else f"{text}\n"
    return joined + section


def _is_blank(line: str) -> bool:
    stripped = line.strip()
    return not stripped or (line[0] == "#" and stripped.startswith("#"))
