"""Run a command, and end in one line whatever a user can cause."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import click

from detbalance.installation import needs
from detbalance.wording import printable


class _StderrHandler(logging.Handler):
    """Writes to what sys.stderr is at the moment, which a progress bar puts itself in front of."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass a note on a data file once, however often a command reads the file."""
        if record.name.startswith(("detbalance.annotations", "detbalance.predictions")):
            line = record.getMessage()
            if line in _said:
                return False
            _said.add(line)
        return bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        own = record.name.startswith("detbalance") and not record.exc_info  # always one line
        sys.stderr.write(printable(self.format(record), keep="" if own else "\n") + "\n")


_said: set[str] = set()  # notes on data files, in this run
# Which extra brings the libraries of a command.
_EXTRA = {
    "train": "train",
    "evaluate": "train",
    "report": "report",
    "compare": "report",
    "plan": "plan",
    "split": "report",
    "thresholds": "report",
    "rescore": "report",
    "donors": "train",
    "generate": "generate",
    "preview": "train",
    "refit": "refit",
    "bag": "train",
    "fuse": "report",
    "opinion": "refit",
    "suspects": "refit",
}


def run(cli: click.Group, arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever a user can cause ends in one line and exit status 2.

    Args:
        cli: the group of all commands.
        arguments: of the command line; those of this process if not given.
    """
    _said.clear()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_StderrHandler()])
    for noisy in ("timm", "httpx", "matplotlib", "absl"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = next((a for a in arguments if not a.startswith("-")), "")
    try:
        sys.exit(cli.main(arguments, prog_name="detbalance", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(f"{error.format_message()} See: detbalance {command} --help".replace("\n", " "))
    except (click.Abort, KeyboardInterrupt) as error:
        # Click puts an exception of its own, without words, around ours.
        _fail(str(error.__cause__ or error) or "interrupted", status=130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("detbalance"):
            raise
        extra = _EXTRA.get(command, "quickstart")
        _fail(str(needs(command, error.name, extra)))
    except ImportError as error:
        if "pip install" not in str(error):  # the line that our own modules write
            raise
        _fail(str(error))
    except (ValueError, OSError) as error:
        _fail(_own_words(str(error)))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail(
            f"{command}: the device is out of memory. A batch must fit. Lower train.batch_size,"
            " raise train.accumulation, or lower model.min_size and model.max_size."
        )


def _own_words(message: str) -> str:
    """The message itself, where a loader's worker has put its traceback around it."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]


def _fail(line: str, status: int = 2) -> None:
    click.secho("error: ", fg="red", nl=False, err=True)
    click.echo(printable(" ".join(line.split())), err=True)
    sys.exit(status)
