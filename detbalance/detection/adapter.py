"""Give a module that exists already a subclass of its own class.

A model that the user built keeps its objects, parameters and `state_dict` keys; only the methods of
the mixin change, for this one model. No class or module of torchvision is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound="Mixin")

if TYPE_CHECKING:
    # A mixin calls methods of the class that it will be put before.
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
        _COMBINED[pair] = type(f"{mixin.__name__}{stock.__name__}", pair, {})
    return _COMBINED[pair]


def _restore(mixin: type[Mixin], stock: type[nn.Module]) -> Mixin:
    combined = _combined(mixin, stock)
    return combined.__new__(combined)


def adapt(module: nn.Module, mixin: type[M]) -> M:
    """Put the methods of a mixin before those of a module's class, in place.

    Args:
        module: any module; one that has the mixin already is returned as it is.
        mixin: the methods; it may call the module's own through `super()`.

    Returns:
        The same object.
    """
    if not isinstance(module, mixin):
        module.__class__ = _combined(mixin, type(module))
    assert isinstance(module, mixin)
    return module


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is of half precision, else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class FullPrecisionAnchors(Mixin):
    """Anchors in float32 under autocast.

    Torchvision makes anchors in the precision of the features: in bfloat16 a coordinate of 800 is
    off by up to 2 pixels.
    """

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        """Generate the anchors of all images; see `torchvision`'s `AnchorGenerator`."""
        # Only type, device and shape of a feature map are looked at: no memory is needed.
        shapes = [
            torch.zeros((), dtype=full_precision(f[:0]).dtype, device=f.device).expand(f.shape)
            for f in feature_maps
        ]
        return super().forward(image_list, shapes)  # type: ignore[no-any-return]


class FullPrecisionProposalHead(Mixin):
    """Objectness and box offsets in float32 under autocast."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict for all levels; see torchvision's `RPNHead`."""
        objectness, offsets = super().forward(features)
        return [full_precision(o) for o in objectness], [full_precision(o) for o in offsets]
