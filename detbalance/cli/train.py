"""`detbalance train`: train a detector, and report AP and recall per class."""

from __future__ import annotations

from pathlib import Path

import click

from detbalance.cli.options import CONFIG, DATA_ROOT, DROP_INVALID, OVERRIDES, command
from detbalance.cli.outputs import RUN, refuse_configured


@command("train", "detbalance train --config configs/bccd.yaml --set train.iterations=500")
@CONFIG
@OVERRIDES
@DATA_ROOT
@click.option("--output", type=RUN, help="The run's folder, instead of the config's output.")
@DROP_INVALID
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--overwrite", is_flag=True, help="Replace the run that the folder holds.")
def train_command(
    config: Path,
    overrides: tuple[str, ...],
    data_root: Path | None,
    output: Path | None,
    drop_invalid: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Read the configuration, train, print the report of the last evaluation."""
    from detbalance.cli.runs import train_run
    from detbalance.reporting.console import print_document
    from detbalance.reporting.report_document import report_document
    from detbalance.training.checkpoint import LAST
    from detbalance.training.config import load_config

    if resume and overwrite:
        raise ValueError("--resume, --overwrite: contradict each other. Give one of them.")
    values: dict[str, object] = {} if output is None else {"output": output}
    if drop_invalid:
        values["data.drop_invalid"] = True
    settings = load_config(config, overrides, values=values, data_root=data_root)
    if not (resume and (settings.output / LAST).exists()):
        refuse_configured(settings.output, RUN, settings.to_dict())
    report = train_run(settings, resume=resume, overwrite=overwrite)
    if report is not None:
        print_document(report_document(report))
