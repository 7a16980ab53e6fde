"""Commands, run as a user runs them."""

from __future__ import annotations

import pytest

from detbalance.cli import main


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Status, output and errors."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def failing_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command which a user got wrong ends with."""
    status, out, err = run_command(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err
    return err
