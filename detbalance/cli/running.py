"""Run a command, and end in one line whatever a user can cause."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from detbalance.cli.commands import EXTRAS


class _StderrHandler(logging.Handler):
    """Writes to what sys.stderr is at the moment, which a progress bar puts itself in front of."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass a note on a data file once, however often a command reads the file."""
        if record.name.startswith("detbalance.data"):
            line = record.getMessage()
            if line in _notes:
                return False
            _notes.add(line)
        return bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        from detbalance.data.messages import printable

        own = record.name.startswith("detbalance") and not record.exc_info  # always one line
        sys.stderr.write(printable(self.format(record), keep="" if own else "\n") + "\n")


_notes: set[str] = set()  # on data files, in this run


def run(cli: click.Group, arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever a user can cause ends in one line and exit status 2."""
    _notes.clear()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_StderrHandler()])
    for noisy in ("timm", "httpx", "matplotlib", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = next((a for a in arguments if not a.startswith("-")), "")
    try:
        with _terminated_like_interrupted():
            sys.exit(cli.main(arguments, prog_name="detbalance", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(f"{error.format_message()} See: detbalance {command} --help".replace("\n", " "))
    except (click.Abort, KeyboardInterrupt) as error:
        # Click puts an exception of its own, without words, around ours.
        cause = error.__cause__ or error
        _fail(str(cause) or "interrupted", status=143 if isinstance(cause, Terminated) else 130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("detbalance"):
            raise
        from detbalance.data.messages import needs

        _fail(str(needs(command, error.name, EXTRAS.get(command, "quickstart"))))
    except ImportError as error:
        if "pip install" not in str(error):  # the line that our own modules write
            raise
        _fail(str(error))
    except OSError as error:
        _fail(_what_the_system_says(error, command))
    except ValueError as error:
        _fail(_own_words(str(error)))
    except (MemoryError, RuntimeError) as error:
        on_device = type(error).__name__ == "OutOfMemoryError"
        if not on_device and isinstance(error, RuntimeError) and _NO_MEMORY not in str(error):
            raise
        _fail(
            f"{command}: the {'device' if on_device else 'machine'} is out of memory. A batch must"
            " fit. Lower the batch size (train.batch_size, --batch-size), raise train.accumulation,"
            " or lower model.min_size and model.max_size."
        )


class Terminated(KeyboardInterrupt):
    """SIGTERM: what cleans up after Ctrl-C cleans up after it."""


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() == process:
            raise Terminated("terminated")
        signal.signal(number, signal.SIG_DFL)  # a worker ends as it would have
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_NO_MEMORY = "DefaultCPUAllocator"  # torch has no class for it on the CPU
_NO_PERMISSION = (
    "this user may not read or write here",
    "Another path, or other permissions, are expected. Change one of them",
)
_FULL = ("the disk is full", "Room is expected. Free some, or name a path on another disk")
_OPEN = ("too many files are open", "Fewer are expected. Lower --workers, or raise `ulimit -n`")
_SYSTEM = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: ("the quota of the disk is used up", _FULL[1]),
    errno.EROFS: ("the disk can only be read", "Another one is expected. Name a path on it"),
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.ENOENT: ("there is no such file or folder", "One is expected. Check the path"),
    errno.ENOTDIR: ("a part of the path is a file", "A folder is expected. Correct the path"),
    errno.EISDIR: ("is a folder", "A file is expected. Name one in it"),
    errno.EEXIST: ("is there already", "A new path is expected. Name another one"),
    errno.ENAMETOOLONG: ("the name is too long", "A shorter one is expected. Choose one"),
}


def _what_the_system_says(error: OSError, command: str) -> str:
    """What a call of the system failed at, where, and what to do about it."""
    number, where = error.errno, error.filename2 or error.filename
    if number is None:  # of a loader's worker only the words are left
        words = _own_words(str(error))
        match = re.search(r"\[Errno (\d+)\] [^:]*(?:: '(.*)')?$", words)
        if match is None:
            return words
        number, where = int(match[1]), match[2]
    usual = (os.strerror(number), "A path that can be read and written is expected. Check it")
    what, remedy = _SYSTEM.get(number, usual)
    return f"{where or command}: {what}. {remedy}."


def _own_words(message: str) -> str:
    """The message itself, where a loader's worker has put its traceback around it."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]


def _fail(line: str, status: int = 2) -> None:
    from detbalance.data.messages import printable

    click.secho("error: ", fg="red", nl=False, err=True)
    click.echo(printable(" ".join(line.split())), err=True)
    sys.exit(status)
