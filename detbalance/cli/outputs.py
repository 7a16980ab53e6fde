"""What every command does before its work: no output may cost an input, or what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click


class Output(click.Path):
    """A path that a command writes to."""

    def __init__(self, *names: str, holds: str = "", lock: str = "inside") -> None:
        super().__init__(path_type=Path)
        self.names, self.holds, self.lock = names, holds, lock if names else "beside"


OUTPUT_FILE = Output()
REPORT, COMPARISON = (
    [f"{name}.{suffix}" for suffix in ("json", "csv", "md", "html")]
    for name in ("report", "comparison")
)
_STATE = ("best.pt", "last.pt", "metrics.jsonl", "curve.png", "tensorboard/*")
BAG = Output("member-*")
RUN = Output(*_STATE, *REPORT, "predictions.json", lock="")


class Command(click.Command):
    """A command that looks at all of its paths before it starts, and locks what it writes to."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by what they are about: files, how it runs, and what is asked for."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in _SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections[_section_of(param)].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        """Refuse outputs that are inputs or are there already, lock them, run."""
        outputs, inputs = _paths(ctx)
        kept = ctx.params.get("overwrite", ctx.meta.get("overwrite")) is False
        for option, kind, path in outputs:
            refuse_inputs(option, path, kind.names, inputs)
            _refuse_what_is_there(option, path, kind, kept)
        with ExitStack() as locks:
            for _, kind, path in outputs:
                _lock(locks, path, kind.lock)
            try:
                return super().invoke(ctx)
            except OSError as error:
                # A write does not say what it wrote to.
                if error.errno and error.filename is None and outputs:
                    error.filename = str(outputs[0][2])
                raise


_SECTIONS = ("Files", "Options", "Running")
_ABOUT_FILES = ("drop_invalid", "overwrite", "resume")
_ABOUT_RUNNING = (
    *("device", "batch_size", "workers", "autocast", "seed"),
    *("as_json", "quiet", "verbose"),
)


def _section_of(param: click.Parameter) -> str:
    if isinstance(param.type, click.Path) or param.name in _ABOUT_FILES:
        return "Files"
    about_running = param.name in _ABOUT_RUNNING or "--help" in param.opts
    return "Running" if about_running else "Options"


def _paths(ctx: click.Context) -> tuple[list[tuple[str, Output, Path]], list[tuple[str, Path]]]:
    """The outputs and the inputs that are given, with the options that name them."""
    outputs: list[tuple[str, Output, Path]] = []
    inputs: list[tuple[str, Path]] = []
    for param in ctx.command.params:
        if isinstance(param.type, click.Path) and param.name is not None:
            value = ctx.params[param.name]
            is_option = isinstance(param, click.Option)
            option = param.opts[0] if is_option else _argument(param, ctx)
            for path in value if isinstance(value, tuple) else (value,):
                if path is not None and isinstance(param.type, Output):
                    outputs.append((option, param.type, path))
                elif path is not None:
                    inputs.append((option, path))
    return outputs, inputs


def _argument(param: click.Parameter, ctx: click.Context) -> str:
    return "the arguments" if param.nargs == -1 else param.make_metavar(ctx).lower()


def refuse_inputs(
    option: str, output: Path, names: Sequence[str], inputs: Sequence[tuple[str, Path]]
) -> None:
    """Refuse an output that is, or whose files would be, one of the inputs, by whatever link."""
    for source_option, source in inputs:
        hit = _hit(output, names, source, images="images" in source_option)
        if hit is not None:
            raise ValueError(
                f"{option}: {hit} is one of the files to read ({source_option}), and would be"
                f" replaced. Another {'folder' if names else 'file'} is expected. Name a new one."
            )


def _hit(output: Path, names: Sequence[str], source: Path, *, images: bool) -> Path | None:
    """What an output would replace of an input, which may be a folder."""
    # A run's folder stands for its results.
    for file in (source, source / "predictions.json") if source.is_dir() else (source,):
        if not names and _is_same(output, file):
            return output
        inside = _inside(file, output)
        if inside is not None and any(fnmatch(inside, name) for name in names):
            return file
        for name in names:
            for written in output.glob(name):
                if _is_same(written, file):
                    return written
    # What is there already in a folder of images, and of no kind that commands write, is an image.
    if not names and images and output.suffix not in (".json", ".safetensors") and output.exists():
        return None if _inside(output, source) is None else output
    return None


def _is_same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    with suppress(OSError):  # one is not there
        return one.samefile(other)
    return False


def _inside(path: Path, folder: Path) -> str | None:
    """Where a path lies in a folder, links followed; None if it does not."""
    with suppress(ValueError):
        real = Path(os.path.realpath(path)).relative_to(os.path.realpath(folder))
        return real.as_posix()
    return None


def refuse_configured(output: Path, kind: Output, config: Mapping[str, Any]) -> None:
    """Refuse an output that would replace what a configuration names, see `refuse_inputs`."""
    root = Path(config["data"].get("root") or "")
    named = [(name, path) for name, text in _texts(config) for path in (Path(text), root / text)]
    refuse_inputs("--output", output, kind.names, named)


def _texts(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a configuration, which may be paths, but for its output."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _texts(value, f"{name}.{key}" if name else key)
    elif isinstance(config, list):
        for value in config:
            yield from _texts(value, name)
    elif isinstance(config, str) and name != "output":
        yield name, config


def _refuse_what_is_there(option: str, path: Path, kind: Output, kept: bool) -> None:
    if not kind.names and path.is_dir():
        raise ValueError(
            f"{option}: {path} is a folder. A file to write is expected. Name a file in it."
        )
    if kept and not kind.names and (path.exists() or path.is_symlink()):
        raise ValueError(
            f"{path}: is there already. A new file is expected. Pass --overwrite to replace it."
        )
    there = [file for name in kind.names for file in path.glob(name)]
    if kept and kind.holds and there:
        what = f"{kind.holds.format(there[0].stem)} ({there[0].relative_to(path)})"
        raise ValueError(
            f"{path}: already holds {what}. A new or empty folder is expected. Pass --overwrite to"
            f" replace it, or another {option}."
        )


def _lock(locks: ExitStack, path: Path, kind: str) -> None:
    from detbalance.data.files import lock_folder  # after `--help`, which needs no NumPy

    place = path.parent / f".{path.name}.lock" if kind == "beside" else path
    try:
        if kind:
            locks.enter_context(lock_folder(place))
    except ValueError as error:
        raise ValueError(str(error).replace(str(place), str(path))) from error
