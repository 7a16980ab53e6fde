"""`detbalance generate`: learn to draw the objects of rare classes, and keep what passes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from detbalance.cli.evaluating import check_folder
from detbalance.cli.options import Device, DropInvalid, Seed, TrainedOn, Whole, command
from detbalance.cli.outputs import Output
from detbalance.cli.printing import print_table, progress
from detbalance.data import load_annotations
from detbalance.data.messages import counted

if TYPE_CHECKING:
    from detbalance.generation import ClassResult, Result


_TITLES = (
    *("class", "donors", "made", "kept", "copies", "repeats", "nonsense", "real\nkept"),
    *("backgr.\nkept", "KID", "KID of\nreal", "KID of\nbackgr."),
)


@command("generate", "detbalance generate --annotations train.json --images train --output donors")
def generate_command(
    *,
    annotations: TrainedOn,
    images: Annotated[Path, "Folder of its images."],
    output: Annotated[Path, Output("*", lock="beside"), "Folder for the crops and donors.json."],
    classes: Annotated[
        tuple[str, ...],
        "--classes NAME",
        "Class to generate, repeatable. Default: the rare and the common ones.",
    ] = (),
    size: Annotated[
        Literal["32", "48", "64"], "Side of what the generator draws, in pixels."
    ] = "32",
    iterations: Annotated[int, Whole(1), "Steps of training."] = 3000,
    per_class: Annotated[int, Whole(1), "Crops to keep of each class."] = 50,
    min_donors: Annotated[
        int, Whole(3), "Leave out classes with fewer real objects: they would be learned by heart."
    ] = 20,
    with_frequent: Annotated[
        bool | None,
        "--with-frequent/--rare-only",
        "Whether to show the other classes in training, so that rare ones share what objects look"
        " like. Default: where a class has fewer than 200 donors.",
    ] = None,
    symmetry: Annotated[
        Literal["none", "mirror", "square"],
        "What is as good as the real objects: mirrored ones, or all turned by 90 degrees as well.",
    ] = "none",
    seed: Seed = 0,
    device: Device = None,
    drop_invalid: DropInvalid = False,
    resume: Annotated[bool, "Go on with a run that was stopped."] = False,
    overwrite: Annotated[bool, "Replace generated donors that the folder holds."] = False,
) -> None:
    """Learn to draw the objects of rare classes, and keep what passes as real and new."""
    from detbalance.cli.runs import chosen_device
    from detbalance.generation import Settings, Stopped, generate
    from detbalance.training.run import stop_request

    check_folder("--images", images)
    settings = Settings(
        classes=classes or None,
        size=int(size),
        iterations=iterations,
        per_class=per_class,
        min_donors=min_donors,
        with_others=with_frequent,
        symmetry=symmetry,
        seed=seed,
    )
    train = load_annotations(annotations, drop_invalid=drop_invalid)
    with stop_request() as stop, progress("learning") as tell:
        try:
            result = generate(
                train,
                images,
                output,
                settings,
                device=str(chosen_device(device)),
                overwrite=overwrite,
                resume=resume,
                progress=lambda stage, done, total: tell(done, total, stage=stage),
                should_stop=stop.is_set,
            )
        except Stopped as error:
            raise KeyboardInterrupt(str(error)) from error
    print_table(_TITLES, map(_row, result.classes), *_sentences(result))


def _row(row: ClassResult) -> list[str | int]:
    counts = (row.made, row.kept, row.copies, row.repeats, row.nonsense)
    distances = (row.kid.generated, row.kid.real, row.kid.background)
    return [
        *(row.name, row.donors, *(counts if row.made else "-----")),
        *("-" if math.isnan(v) else f"{v:.0%}" for v in (row.held_out_kept, row.background_kept)),
        *("-" if math.isnan(v) else f"{v:.3f}" for v in distances),
    ]


def _sentences(result: Result) -> list[str]:
    """What the table does not say, in words."""
    lines = [f"{row.name}: left out, {row.left_out}." for row in result.classes if row.left_out]
    if result.taught_by:
        lines.append(f"Shown in training as well: {', '.join(result.taught_by)}.")
    lines += [
        "real kept, backgr. kept: share of unseen donors and of places without objects that pass"
        " the check against nonsense; it is worth what lies between them.",
        f"KID: distance to the donors by {result.features}, beside that of one half of the donors"
        " to the other and that of places without objects. The generator has seen the donors, so"
        " the figure flatters it.",
    ]
    lines += [_verdict(row) for row in result.classes if not math.isnan(row.kid.generated)]
    if result.output is None:
        lines.append(
            "Nothing is written: no class has crops that pass. Give it more --iterations, or paste"
            " the real donors instead (augmentation.paste)."
        )
    else:
        lines.append(
            f"Written: {result.output} ({counted(sum(row.kept for row in result.classes), 'crop')},"
            f" {result.seconds / 60:.1f} minutes). Look at {result.output / 'contact_sheet.png'}"
            " before training on them."
        )
    return lines


def _verdict(row: ClassResult) -> str:
    """Where the generated crops lie between real ones and places without objects."""
    kid = row.kid
    if math.isnan(kid.real) or math.isnan(kid.background) or kid.background <= kid.real:
        return f"{row.name}: KID cannot be told from that of the background."
    if kid.generated <= kid.real + 2 * kid.spread:
        return (
            f"{row.name}: generated crops are no farther from the donors than halves of so few"
            f" donors may be from each other (KID {kid.real:.3f} +- {2 * kid.spread:.3f})."
        )
    if kid.generated >= kid.background:
        return (
            f"{row.name}: generated crops are no nearer to real ones than places without objects."
        )
    share = (kid.generated - kid.real) / (kid.background - kid.real)
    return (
        f"{row.name}: generated crops are {share:.0%} of the way from real ones to places without"
        " objects."
    )
