"""`detbalance train`: train a detector, and report AP and recall per class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from detbalance.cli.options import Configured, DropInvalid, command
from detbalance.cli.outputs import RUN, refuse_configured


@command("train", "detbalance train --config configs/bccd.yaml --set train.iterations=500")
def train_command(
    *,
    options: Configured,
    output: Annotated[Path | None, RUN, "The run's folder, instead of the config's output."] = None,
    drop_invalid: DropInvalid = False,
    resume: Annotated[bool, "Go on from the last checkpoint in the run's folder."] = False,
    overwrite: Annotated[bool, "Replace the run that the folder holds."] = False,
) -> None:
    """Read the configuration, train, print the report of the last evaluation."""
    from detbalance.cli.printing import say
    from detbalance.cli.runs import run_document, train_run
    from detbalance.reporting.console import print_document
    from detbalance.reporting.report_document import report_document
    from detbalance.training.checkpoint import LAST

    if resume and overwrite:
        raise ValueError("--resume, --overwrite: contradict each other. Give one of them.")
    values: dict[str, object] = {} if output is None else {"output": output}
    if drop_invalid:
        values["data.drop_invalid"] = True
    config = options.load(**values)
    if not (resume and (config.output / LAST).exists()):
        refuse_configured(config.output, RUN, config.to_dict())
    report = train_run(config, resume=resume, overwrite=overwrite)
    if report is not None:
        print_document(report_document(report))
        say("")
        print_document(run_document(config, str(options.config)))
