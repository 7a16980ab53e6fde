"""A training configuration: a YAML file, checked before anything is built.

Sections whose fields are the arguments of a constructor (model, loss, sampling, augmentation) are
read off its signature, so an argument added there is a configuration key at once.
"""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy.typing as npt
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from detbalance.augmentation import AUGMENTATIONS, PREPARED
from detbalance.data.yolo import path_and_split
from detbalance.detection.defaults import usual_weights
from detbalance.detection.models import build_detector
from detbalance.losses import LOSSES
from detbalance.sampling import FACTORS
from detbalance.training.config_errors import first_fault, read_yaml

_MOST_BYTES = 2**20  # of a configuration: values by name for a thousand classes are a tenth of it
MOST_IN_BATCH, MOST_WORKERS = 2**16, 2**10  # more is a slip, and shows as silence for minutes
DATA_ROOT_VARIABLE = "DETBALANCE_DATA"
# The full rate of new heads destroys a pretrained backbone: see docs/measured.md, `backbone_rate`.
PRETRAINED_RATE = 0.1
BEST_METRIC = r"^(AP|AP50|AP75|AR100|(all|rare|common|frequent)\.\w+)$"


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def section_of(
    title: str,
    /,
    *constructors: Callable[..., Any],
    base: type[Section] = Section,
    **extra: Any,
) -> Any:
    """A section whose fields are the keyword-only arguments of the constructors."""
    fields: dict[str, Any] = dict(extra)
    for constructor in constructors:
        function = constructor.__init__ if inspect.isclass(constructor) else constructor
        hints = typing.get_type_hints(function)
        for parameter in inspect.signature(function).parameters.values():
            is_array = hints.get(parameter.name) in (npt.ArrayLike, npt.ArrayLike | None)
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not is_array:
                assert parameter.name not in fields, f"{title}: two meanings of {parameter.name}"
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[parameter.name] = (hints[parameter.name], default)
    return create_model(title, __base__=base, **fields)


class NoSampling(Section):
    """Every image once in an epoch."""

    method: Literal["none"] = "none"


class _Method(Section):
    """One of the factor functions with its options."""

    @model_validator(mode="after")
    def _one_of_both(self) -> _Method:
        both = ("threshold", "target_length")
        values = [getattr(self, name, None) for name in both]
        if set(both) <= set(type(self).model_fields) and values.count(None) != 1:
            method = self.model_dump()["method"]
            raise ValueError(f'method "{method}" needs either threshold or target_length')
        return self


def _sections(suffix: str, **extra: Any) -> list[Any]:
    """The sections of all methods, told apart by `method`."""
    return [
        section_of(f"{name}{suffix}", function, base=_Method, method=(Literal[name], ...), **extra)
        for name, function in FACTORS.items()
    ]


def _augmentation_sections() -> dict[str, Any]:
    """The fields of all parts of the augmentation, each off unless it is set."""
    fields = {}
    for name, part in AUGMENTATIONS.items():
        arguments = inspect.signature(part).parameters
        prepared = [PREPARED[argument] for argument in arguments if argument in PREPARED]
        fields[name] = (section_of(f"{name}Section", *prepared, part) | None, None)
    return fields


class _Augmentation(Section):
    """What a training image looks like, in this order; null switches a part off."""

    @model_validator(mode="before")
    @classmethod
    def _standard_where_no_policy(cls, values: Any) -> Any:
        """A policy has flips, scale and colour of its own."""
        if isinstance(values, Mapping) and values.get("policy") is None:
            return {"standard": {}, **values}
        return values


if TYPE_CHECKING:

    class _Dynamic(Section):
        """Stands for a section that is made from signatures."""

        def __getattr__(self, name: str) -> Any: ...

    ModelSection: TypeAlias = _Dynamic
    AugmentationSection: TypeAlias = _Dynamic
    LossSection: TypeAlias = _Dynamic
    SamplingSection: TypeAlias = Section
else:
    ModelSection = section_of("ModelSection", build_detector)
    AugmentationSection = section_of(
        "AugmentationSection", base=_Augmentation, **_augmentation_sections()
    )
    # Chosen by measurement against "image" at equal iterations: AP50 .643 against .551 on digits
    # without balancing (means of 3 seeds), .866 against .859 on blood cells (2 seeds; the backbone
    # at the full rate, as was the default).
    _NORMALIZER = {"normalizer": (Literal["batch", "image"], "batch")}
    LossSection = Annotated[
        reduce(
            or_,
            [
                section_of(f"{name}Section", loss, name=(Literal[name], ...), **_NORMALIZER)
                for name, loss in LOSSES.items()
            ]
            + [section_of("StockSection", name=(Literal["torchvision"], ...), **_NORMALIZER)],
        ),
        Field(discriminator="name"),
    ]
    _Further = Annotated[reduce(or_, _sections("Also")), Field(discriminator="method")]
    # Factors of further methods, which multiply.
    _ALSO = {"also": (tuple[_Further, ...], ())}
    SamplingSection = Annotated[
        reduce(or_, [NoSampling, *_sections("Section", **_ALSO)]), Field(discriminator="method")
    ]


class DataSection(Section):
    """Where the images and annotations are; relative paths start at `root`."""

    train: Path
    train_images: Path
    val: Path
    val_images: Path
    root: Path | None = None
    """Default: --data-root, then the environment variable DETBALANCE_DATA, then here."""
    drop_invalid: bool = False
    """Leave out invalid annotations, and say how many, instead of stopping."""
    skip_missing: bool = False
    """Leave out images that are missing or unreadable, and say how many, instead of stopping."""

    def path(self, name: str) -> Path:
        """One of the four paths, with the root applied."""
        path: Path = getattr(self, name)
        return (self.root or Path()) / path


class TrainSection(Section):
    """Optimisation, counted in iterations (optimizer steps)."""

    iterations: Annotated[int, Field(gt=0)] = 1000
    batch_size: Annotated[int, Field(gt=0, le=MOST_IN_BATCH)] = 4
    """Images per optimizer step, over all processes and accumulated steps."""
    accumulation: Annotated[int, Field(gt=0)] = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    backbone_rate: Annotated[float, Field(ge=0)] | None = None
    """The backbone's learning rate as a multiple of the rest's. Default: PRETRAINED_RATE where
    `model.weights` are loaded, else 1."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 100
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.67, 0.89)
    """For "step": the fractions of the run after which the rate drops to a tenth."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 10.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] | None = None
    """Processes that load images. Default: none where the processor itself trains, else one a core
    up to 8."""
    log_every: Annotated[int, Field(gt=0)] = 10
    evaluate_every: Annotated[int, Field(gt=0)] | None = None
    """Iterations between evaluations on val; the last iteration is always evaluated."""
    checkpoint_every: Annotated[int, Field(gt=0)] = 100
    trackers: tuple[str, ...] = ("tensorboard",)
    """Of Accelerate, by name: tensorboard (in the run's folder), wandb, mlflow, comet_ml, ..."""
    gradient_ratio_limit: Annotated[float, Field(gt=1)] | None = 100.0
    """Warn where sampling, loss weights and paste together make a box of a class count more than
    this many times as much as one of the most frequent class; see `gradient_ratio.py`."""

    @model_validator(mode="after")
    def _whole_batches(self) -> TrainSection:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulation"
                f" {self.accumulation}"
            )
        return self


class EvaluationSection(Section):
    """How the run is judged on val."""

    batch_size: Annotated[int, Field(gt=0, le=MOST_IN_BATCH)] = 8
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Recall and precision per class count detections with at least this score."""
    best_metric: Annotated[str, Field(pattern=BEST_METRIC)] = "AP"
    """What best.pt is best in: AP, AP50, AP75, AR100, or a figure of a group of classes, such as
    rare.AP50 or rare.recall_at_precision."""


class Config(Section):
    """The whole configuration of a run."""

    output: Path
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataSection
    model: ModelSection = Field(default_factory=ModelSection)
    loss: LossSection
    sampling: SamplingSection = Field(default_factory=NoSampling)
    augmentation: AugmentationSection = Field(default_factory=AugmentationSection)
    train: TrainSection = Field(default_factory=TrainSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)

    @model_validator(mode="after")
    def _resolved_weights_and_rate(self) -> Config:
        model = self.model.model_dump()
        if model["weights"] is None:
            weights = {"weights": usual_weights(model["backbone"])}
            object.__setattr__(self, "model", self.model.model_copy(update=weights))
        if self.train.backbone_rate is None:
            rate = PRETRAINED_RATE if self.loads_weights else 1.0
            train = self.train.model_copy(update={"backbone_rate": rate})
            object.__setattr__(self, "train", train)  # before anyone has seen the frozen values
        return self

    @property
    def loads_weights(self) -> bool:
        """Whether the model starts from weights that were trained before."""
        return bool(self.model.model_dump()["weights"] != "none")

    def to_dict(self) -> dict[str, Any]:
        """Every field with its resolved value, in plain types (for YAML and checkpoints)."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved configuration as the text of a YAML file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def is_written_in(self, text: str | bytes) -> bool:
        """Whether the content of a YAML file, of this version or an earlier one, says the same.

        Values are compared, not texts: a field that an earlier version did not have has its
        default, so that a run of that version stays the same run.
        """
        try:
            return Config.model_validate(read_yaml(text)).to_dict() == self.to_dict()
        except ValueError:  # pydantic's is one
            return False


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
) -> Config:
    """Read and check a configuration file.

    Args:
        path: the YAML file.
        overrides: texts like "train.iterations=500"; the value is read as YAML.
        values: further overrides, by dotted key; each is taken as it is, so that a path, say, stays
            one whatever is in it. They go before `overrides`.
        data_root: start of the relative paths in `data`; goes before the file's own and the
            environment variable DETBALANCE_DATA.

    Raises:
        ValueError: in one line, for a file that is missing or no YAML mapping, an unknown key
            (with the nearest known one), a value of the wrong type or out of range, and a data
            path that does not exist.
    """
    where = str(path)
    expected = (
        "A YAML mapping of sections (data, model, loss, ...) is expected. Look at the files in"
        " configs/."
    )
    try:
        with _shipped(Path(path)).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{where}: cannot be read ({error.strerror}). {expected}") from error
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{where}: is larger than {_MOST_BYTES // 2**20} MB. {expected}")
    try:
        raw = read_yaml(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}. Mend that line.") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: holds {type(raw).__name__}. {expected}")
    for key, value in [*map(_parsed, overrides), *(values or {}).items()]:
        _set(raw, key, value)
    config = parse_config(raw, where)
    root = data_root or config.data.root or os.environ.get(DATA_ROOT_VARIABLE)
    if root is not None:
        data = config.data.model_copy(update={"root": Path(root)})
        config = config.model_copy(update={"data": data})
    _check_paths(config.data, where)
    return config


def _shipped(path: Path) -> Path:
    """The path, or where the package keeps it: `configs/x.yaml` works in any folder."""
    if path.exists() or path.parts[:1] != ("configs",):
        return path
    package = Path(__file__).parents[1]
    return next((p / path for p in (package, package.parent) if (p / path).is_file()), path)


def parse_config(raw: Mapping[str, Any], where: str) -> Config:
    """Check a configuration given as a mapping; `where` begins the error's line."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        fault = " ".join(first_fault(error, Config, raw).split())
        raise ValueError(f"{where}: {fault}") from error
    _check_pair(config, where)
    return config


def _check_pair(config: Config, where: str) -> None:
    """Refuse a softmax loss in a detector of one stage, whose outputs are judged one by one."""
    loss, detector = config.loss.model_dump()["name"], config.model.model_dump()["detector"]
    if detector == "fasterrcnn" or loss == "torchvision" or LOSSES[loss].activation == "sigmoid":
        return
    possible = [name for name, kind in LOSSES.items() if kind.activation == "sigmoid"]
    raise ValueError(
        f'{where}: loss.name is "{loss}", a softmax loss, and model.detector is "{detector}", which'
        f" has sigmoid scores. Possible with it: {', '.join(sorted(possible))}, torchvision. Choose"
        " one of these, or set model.detector to fasterrcnn."
    )


def _parsed(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(
            f'--set {override[:80]}: has no "=". KEY=VALUE is expected, like train.iterations=500.'
        )
    try:
        return key.strip(), read_yaml(text)
    except ValueError as error:
        raise ValueError(
            f"--set {override[:80]}: the value {error}. A number, text, list or null is expected."
            " Quote it."
        ) from error


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    section = raw
    *parents, last = key.split(".")
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise ValueError(
                f"--set {key}={value}: {parent} holds {section!r}, not a section. A dotted path to"
                " a value is expected. Look at the keys in configs/."
            )
    section[last] = value


def _check_paths(data: DataSection, where: str) -> None:
    for name in ("train", "val", "train_images", "val_images"):
        path = data.path(name)
        shown = str(path) if str(path).isprintable() else repr(str(path))
        kind = "folder" if name.endswith("_images") else "file"
        # A split may stand behind a colon, and annotations of VOC are a folder.
        there = Path(path_and_split(path)[0]).exists()
        if not (path.is_dir() if kind == "folder" else there):
            root = f" or the data's folder with --data-root DIR or {DATA_ROOT_VARIABLE}"
            raise ValueError(
                f"{where}: data.{name} is {shown}, which is no {kind}. An existing {kind} is"
                f" expected. Correct the path{'' if data.root else root}."
            )
