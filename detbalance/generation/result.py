"""What is asked for, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detbalance.augmentation.transform import MAX_SEED
from detbalance.generation.networks import SIZES, SYMMETRIES
from detbalance.generation.quality import Kid


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to generate, and how.

    Attributes:
        classes: names of the classes to generate; by default those that `frequency_groups` calls
            rare or common.
        size: side of what the generator draws, in pixels, one of `SIZES`.
        iterations: steps of the training.
        per_class: crops to keep of each class, >= 1.
        min_donors: donors that a class must have, >= 3; with fewer, the generator can only learn
            them by heart, and no check can tell.
        with_others: whether the other classes' donors are shown too, so that rare classes share
            what objects look like here; None: where a class has fewer than 200 donors.
        symmetry: "none"; "mirror" if mirrored objects are as good as the real ones; "square" if
            turned ones are, too.
        power: >= 0; the share of a class in training goes with its number of donors to minus this.
        judge_steps: steps of the training of each classifier that checks.
        seed: of all draws, >= 0.

    Raises:
        ValueError: if a value is out of its range.
    """

    classes: tuple[str, ...] | None = None
    size: int = 32
    iterations: int = 3000
    per_class: int = 50
    min_donors: int = 20
    with_others: bool | None = None
    symmetry: str = "none"
    power: float = 0.5
    judge_steps: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("size", SIZES), ("symmetry", tuple(SYMMETRIES))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Settings: {name} is {getattr(self, name)!r}. Known:"
                    f" {', '.join(map(str, known))}. Choose one of these."
                )
        for name, least, most in (
            ("iterations", 1, 10**7),
            ("per_class", 1, 10**5),
            ("min_donors", 3, 10**9),
            ("power", 0, 10),
            ("judge_steps", 1, 10**6),
            ("seed", 0, MAX_SEED),
        ):
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(
                    f"Settings: {name} is {value}. Expected at least {least}. Raise {name}."
                )
            if value > most:
                raise ValueError(
                    f"Settings: {name} is {value}. Expected at most {most}. Lower {name}."
                )


@dataclass(kw_only=True)
class ClassResult:
    """What came of one class.

    Attributes:
        name: of the class.
        donors: boxes that it could be learned from.
        left_out: why nothing was generated or written; "" if something was.
        made: crops that were drawn.
        kept: crops that passed all checks and were written.
        nonsense: crops that the judges do not take for the class.
        copies: crops that are too near to a donor.
        repeats: crops that are too near to one that was kept before.
        threshold: least confidence of the judges.
        held_out_kept: share of unseen donors that pass the check against nonsense: what such a
            check is worth.
        background_kept: share of unseen background crops that pass it.
        kid: how near the kept crops come to the donors.
    """

    name: str
    donors: int
    left_out: str = ""
    made: int = 0
    kept: int = 0
    nonsense: int = 0
    copies: int = 0
    repeats: int = 0
    threshold: float = float("nan")
    held_out_kept: float = float("nan")
    background_kept: float = float("nan")
    kid: Kid = field(default_factory=lambda: Kid(*[float("nan")] * 4))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: null where a figure is undefined."""
        values = {k: _plain(v) for k, v in asdict(self).items()}
        return {**values, "kid": self.kid.to_dict()}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a run.

    Attributes:
        output: the folder that was written; None if no crop passed.
        classes: that were asked for, rarest first.
        taught_by: names of the other classes that were shown in training.
        features: the network that KID is of.
        seconds: of the whole run.
    """

    output: Path | None
    classes: tuple[ClassResult, ...]
    taught_by: tuple[str, ...]
    features: str
    seconds: float


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value else round(value, 5)
    return value
