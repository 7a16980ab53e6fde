"""Give a module that exists already a subclass of its own class.

A model that the user built keeps its objects, parameters and `state_dict` keys; only the methods of
the mixin change, for this one model. No class or module of torchvision is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast, get_type_hints

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from detbalance.losses import ClassificationLoss
from detbalance.losses.loss import other_loss, saved_name

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound="Mixin")

if TYPE_CHECKING:
    # A mixin calls methods of the class that it will be put before, by `stock_` and their name.
    Stock: Any = nn.Module
else:
    Stock = nn.Module


class Mixin(Stock):  # type: ignore[misc]
    """Base of the mixins that `adapt` puts in front of a module's class."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The combined class has no importable name, so pickle and deepcopy rebuild it.
        mixin, stock = type(self).__bases__
        return _restore, (mixin, stock), self.__dict__


_COMBINED: dict[tuple[type[Mixin], type[nn.Module]], type[Mixin]] = {}


def _combined(mixin: type[Mixin], stock: type[nn.Module]) -> type[Mixin]:
    pair = (mixin, stock)
    if pair not in _COMBINED:
        kinds = mixin.__mro__[: mixin.__mro__.index(Mixin)]
        methods = (getattr(stock, n, None) for kind in kinds for n in vars(kind) if n[0] != "_")
        renamed = (_renamed(method) for method in methods if isinstance(method, FunctionType))
        # Where mixins are stacked, the names stay those of the class that was first.
        body: dict[str, Any] = {f.__name__: f for f in renamed if not hasattr(stock, f.__name__)}
        # TorchScript reads the annotations of the nearest class only: those of the mixin are none
        # that it knows, those of torchvision it needs.
        annotated = (vars(kind).get("__annotations__") for kind in stock.__mro__)
        body["__annotations__"] = next((a for a in annotated if a), {})
        _COMBINED[pair] = type(f"{mixin.__name__}{stock.__name__}", pair, body)
    return _COMBINED[pair]


def _renamed(method: FunctionType) -> FunctionType:
    """A copy of a method with `stock_` before its name, by which TorchScript tells it apart."""
    name = f"stock_{method.__name__}"
    copy = FunctionType(
        method.__code__, method.__globals__, name, method.__defaults__, method.__closure__
    )
    copy.__kwdefaults__, copy.__annotations__ = method.__kwdefaults__, method.__annotations__
    copy.__dict__.update(method.__dict__)
    return copy


def _restore(mixin: type[Mixin], stock: type[nn.Module]) -> Mixin:
    combined = _combined(mixin, stock)
    return combined.__new__(combined)


def adapt(module: nn.Module, mixin: type[M]) -> M:
    """Put the methods of a mixin before those of a module's class, in place."""
    if not isinstance(module, mixin):
        module.__class__ = _combined(mixin, type(module))
    assert isinstance(module, mixin)
    return module


def not_scripted(function: F) -> F:
    """Have TorchScript leave a function out; called in a scripted model it raises an error."""
    # TorchScript looks up the types of what it leaves out, and cannot read them as text.
    function.__annotations__ = get_type_hints(function)
    return cast(F, torch.jit.unused(function))


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is of half precision, else as it is."""
    return tensor.float() if tensor.dtype in [torch.float16, torch.bfloat16] else tensor


class FullPrecisionAnchors(Mixin):
    """Anchors in float32 under autocast and in a model of half precision."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Generate the anchors of all images; see `torchvision`'s `AnchorGenerator`."""
        # Only type, device and shape of a feature map are looked at: no memory is needed.
        shapes = [
            torch.zeros([], dtype=full_precision(f[:0]).dtype, device=f.device).expand(f.shape)
            for f in feature_maps
        ]
        return self.stock_forward(image_list, shapes)  # type: ignore[no-any-return]


class FullPrecisionProposalHead(Mixin):
    """Objectness and box offsets in float32 under autocast and in a model of half precision."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict for all levels; see torchvision's `RPNHead`."""
        objectness, offsets = self.stock_forward(features)
        return [full_precision(o) for o in objectness], [full_precision(o) for o in offsets]


class FullPrecisionPool(Mixin):
    """Regions pooled in float32 in a model of half precision, as under autocast."""

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Pool all regions, to the precision of the features; see `MultiScaleRoIAlign`."""
        features: dict[str, Tensor] = {}
        dtype = torch.float32
        for name, level in x.items():
            features[name] = full_precision(level)
            dtype = level.dtype
        return self.stock_forward(features, boxes, image_shapes).to(dtype)  # type: ignore[no-any-return]


class LossStateGuard(Mixin):
    """A head that refuses the weights of a model with another loss, also where not strict."""

    class_layer: ClassVar[str]
    """Name of the last layer, below the head."""

    classification_loss: ClassificationLoss | None
    detector_classes: int

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **named: Any
    ) -> None:
        saved = saved_name(state_dict.get(f"{prefix}classification_loss._extra_state"))
        own = self.classification_loss
        # A part of a state_dict, without the last layer, says nothing of the loss.
        has_layer = f"{prefix}{self.class_layer}.weight" in state_dict
        if (saved is None) != (own is None) and (saved is not None or has_layer):
            other = other_loss(saved, None if own is None else own.identity())
            raise ValueError(
                f"load_state_dict(): the model was trained {other}. The same loss is expected."
                " Before loading, call set_classification_loss() with the loss that it was trained"
                " with, None for torchvision's own."
            )
        super()._load_from_state_dict(state_dict, prefix, *others, **named)
