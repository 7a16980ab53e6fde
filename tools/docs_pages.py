"""Pages of the site that are made from the code: commands and configuration. A hook of MkDocs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args

from click.testing import CliRunner
from mkdocs.structure.files import File, Files

from detbalance.augmentation import AUGMENTATIONS, PREPARED
from detbalance.cli import cli
from detbalance.cli.commands import COMMANDS
from detbalance.detection.models import build_detector
from detbalance.losses import LOSSES
from detbalance.sampling import FACTORS
from detbalance.training import config as schema


def on_files(files: Files, config: Any) -> Files:
    """Add the pages; nothing is written to the folder."""
    for name, content in (("commands", commands()), ("configuration", configuration())):
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def commands() -> str:
    """The help of every command, by what it is for."""
    lines = ["# Commands", ""]
    for section, names in COMMANDS.items():
        lines += [f"## {section}", ""]
        for name in names:
            run = CliRunner().invoke(
                cli, [name, "--help"], prog_name="detbalance", terminal_width=80
            )
            text = run.output
            lines += [f"### {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(lines)


def configuration() -> str:
    """Every key with its default and what it does."""
    lines = [
        "# Configuration",
        "",
        "A YAML file of sections; `detbalance init` writes one. Every key can be given as"
        " `--set section.key=value`.",
        "",
        *_fields("data", schema.DataSection, _after_fields(schema.DataSection)),
        *_signature("model", build_detector),
    ]
    parts = {
        name: ([PREPARED[a] for a in inspect.signature(part).parameters if a in PREPARED], part)
        for name, part in AUGMENTATIONS.items()
    }
    families = {
        "loss": ("`name` and the keys of that loss. `normalizer`: `batch` or `image`.", LOSSES),
        "sampling": ("`method` and its keys; `also`: further ones, which multiply.", FACTORS),
        "augmentation": ("Parts in this order; all but `standard` are off until named.", parts),
    }
    for title, (words, family) in families.items():
        lines += [f"## {title}", "", words, ""]
        for name, member in family.items():
            prepared, constructor = member if isinstance(member, tuple) else ([], member)
            lines += _signature(name, *prepared, constructor, level=3)
    for name, section in (("train", schema.TrainSection), ("evaluation", schema.EvaluationSection)):
        lines += _fields(name, section, _after_fields(section))
    return "\n".join(lines) + "\n"


def _signature(title: str, *constructors: Any, level: int = 2) -> list[str]:
    """The keyword arguments of a constructor with their words."""
    rows = []
    for constructor in constructors:
        words = _arguments(inspect.getdoc(constructor) or "")
        for parameter in inspect.signature(constructor).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name in words:
                default = parameter.default
                shown = "required" if default is parameter.empty else f"`{default!r}`"
                rows.append(f"| `{parameter.name}` | {shown} | {_cell(words[parameter.name])} |")
    return [f"{'#' * level} {title}", "", *_table(rows)]


def _fields(title: str, section: Any, words: dict[str, str]) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        shown = (
            "required"
            if field.is_required()
            else f"`{field.get_default(call_default_factory=True)!r}`"
        )
        choices = [repr(a) for a in get_args(field.annotation) if isinstance(a, str)]
        text = words.get(name, f"One of {', '.join(choices)}." if choices else "")
        rows.append(f"| `{name}` | {shown} | {_cell(text)} |")
    return [f"## {title}", "", *_table(rows)]


def _table(rows: list[str]) -> list[str]:
    return (
        ["| key | default | |", "|---|---|---|", *rows, ""] if rows else ["No keys of its own.", ""]
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _arguments(docstring: str) -> dict[str, str]:
    """Name and words of each argument in a docstring of Google's style."""
    found = re.search(r"^Args:\n((?:    .*\n|\n)*)", docstring + "\n", re.M)
    entries = re.split(r"^    (\w+): ", found[1], flags=re.M)[1:] if found else []
    return dict(zip(entries[::2], entries[1::2], strict=True))


def _after_fields(section: Any) -> dict[str, str]:
    """The string below each field of a class."""
    (body,) = ast.parse(inspect.getsource(section)).body
    return dict(_pairs(body))


def _pairs(body: Any) -> Iterator[tuple[str, str]]:
    for before, node in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(before, ast.AnnAssign) and is_text:
            yield before.target.id, str(node.value.value)
