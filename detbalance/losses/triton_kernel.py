"""The sigmoid kernel for CUDA in one pass over the logits, written in Triton.

Every program owns some rows and a block of columns: it reads each of its logits once, writes the
gradient once and keeps sums in registers. What it leaves is one loss and one row of column sums;
these are added up in float64 and in a fixed order, so equal inputs give equal bits.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from detbalance.losses.pytorch_kernel import Factor, Terms

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

AVAILABLE = triton is not None
"""Whether Triton is installed."""

# Elements that a program holds at once: eight per thread.
TILE = 1024
WARPS = 4
# Some waves over the largest GPUs; their column sums stay small beside the logits.
PROGRAMS = 4096

_logger = logging.getLogger(__name__)


@functools.cache
def works(device: torch.device) -> bool:
    """Tell whether the kernel runs on a device; the first call compiles it once to see."""
    if not AVAILABLE:
        return False
    try:
        terms = Terms(1.0, 1.0, 0.0, 1.0, None, None, None, None)
        labels = torch.zeros(1, dtype=torch.int64, device=device)
        _, gradient, *_ = run(torch.zeros(1, 1, device=device), labels, terms, True)
        assert gradient is not None
        scale(gradient, gradient[0, 0])
    except Exception as error:
        _logger.warning(
            "Triton does not run on %s, losses use the slower PyTorch form there: %s: %s",
            device,
            type(error).__name__,
            error,
        )
        return False
    return True


def run(
    logits: Tensor, labels: Tensor, terms: Terms, with_gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Do what `detbalance.losses.pytorch_kernel.run` does."""
    rows, columns = logits.shape
    gradient = logits.new_empty(rows, columns, dtype=torch.float32) if with_gradient else None
    block = _column_block(columns)
    tile_rows = TILE // block
    blocks = triton.cdiv(columns, block)
    tiles = triton.cdiv(rows, tile_rows)
    # Whole tiles per part, and no part without a tile.
    tiles_per_part = max(1, triton.cdiv(tiles * blocks, PROGRAMS))
    parts = triton.cdiv(tiles, tiles_per_part)
    sums = logits.new_zeros(2, parts if with_gradient else 0, columns, dtype=torch.float32)
    losses = logits.new_zeros(parts * blocks, dtype=torch.float32)
    if parts:
        weight, group_weight = _number_or_tensor(terms.negative_weight)
        positive_weight, positive_weights = _number_or_tensor(terms.positive_weight)
        gamma, gammas = _number_or_tensor(terms.gamma)
        factor, factors = _number_or_tensor(1.0 / terms.normalizer)
        with torch.cuda.device(logits.get_device()):
            _tiles[(parts * blocks,)](
                logits,
                labels.contiguous(),
                gradient,
                losses,
                sums[0] if with_gradient else None,
                sums[1] if with_gradient else None,
                positive_weight,
                positive_weights,
                weight,
                group_weight,
                gamma,
                gammas,
                factor,
                None if factors is None else factors.to(logits.device),
                _contiguous(terms.row_weights),
                _contiguous(terms.groups),
                _contiguous(terms.shift),
                _contiguous(terms.quality),
                rows,
                columns,
                blocks,
                tiles_per_part,
                logits.stride(0),
                logits.stride(1),
                GAMMA=int(gamma) if gammas is None and gamma in (0.0, 1.0, 2.0) else -1,
                BY_GROUP=group_weight is not None and group_weight.ndim == 2,
                TILE_ROWS=tile_rows,
                BLOCK=block,
                num_warps=WARPS,
                # Said, because newer versions of Triton warn that their default will change.
                enable_fp_fusion=True,
            )
    loss = losses.sum(dtype=torch.float64).float()
    positive, negative = sums.sum(dim=1, dtype=torch.float64)
    return loss, gradient, positive, negative


def scale(values: Tensor, factor: Tensor) -> Tensor:
    """Multiply by a factor in place; a factor of 1 is found on the device and costs nothing."""
    size = values.numel()
    per_program = triton.cdiv(triton.cdiv(size, PROGRAMS), TILE) * TILE
    if size:
        with torch.cuda.device(values.get_device()):
            _scale[(triton.cdiv(size, per_program),)](
                values, factor, size, per_program, BLOCK=TILE, num_warps=WARPS
            )
    return values


def _column_block(columns: int) -> int:
    """The width that wastes least: a block costs its columns, and about eight for being one."""
    widths = (128, 64, 32, 16, 8, 4)
    return min(widths, key=lambda width: triton.cdiv(columns, width) * (width + 8))


def _number_or_tensor(value: Factor) -> tuple[float, Tensor | None]:
    return (0.0, value.contiguous()) if isinstance(value, Tensor) else (float(value), None)


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _jit(function: Any) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _log1p(s):  # type: ignore[no-untyped-def]
    """log(1 + z) from s = z / (2 + z), as 2 artanh(s): to the last digits for z in 0..1."""
    t = s * s
    series = 1.0 / 11.0 + t * (1.0 / 13.0)
    series = 1.0 / 9.0 + t * series
    series = 1.0 / 7.0 + t * series
    series = 1.0 / 5.0 + t * series
    series = 1.0 / 3.0 + t * series
    return 2.0 * (s + s * t * series)


@_jit
def _scale(values, factor, size, per_program, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program multiplies its part of the values."""
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        first = tl.program_id(0).to(tl.int64) * per_program
        for start in range(0, per_program, BLOCK):
            place = first + start + tl.arange(0, BLOCK)
            value = tl.load(values + place, mask=place < size)
            tl.store(values + place, value * by, mask=place < size)


@_jit
def _tiles(  # type: ignore[no-untyped-def]
    logits,
    labels,
    gradient,
    losses,
    positives,
    negatives,
    positive_weight,
    positive_weights,
    negative_weight,
    negative_weights,
    gamma,
    gammas,
    factor,
    factors,
    row_weights,
    groups,
    shift,
    quality,
    num_rows,
    num_columns,
    blocks,
    tiles_per_part,
    row_stride,
    column_stride,
    GAMMA: tl.constexpr,
    BY_GROUP: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program. Pointers that are None switch their part off when the kernel is compiled."""
    program = tl.program_id(0)
    # Neighbours share rows, so that the ends of cache lines are read from memory once.
    part = program // blocks
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    in_columns = column < num_columns
    # Offsets go beyond 2^31 elements.
    wide = column.to(tl.int64)

    # Where there is no column there is no weight, so nothing has to be masked further down.
    if positive_weights is not None:
        positive_weight = tl.load(positive_weights + column, mask=in_columns, other=0.0)
    positive_weight = tl.where(in_columns, positive_weight, 0.0).to(tl.float32)[None, :]
    if not BY_GROUP:
        if negative_weights is not None:
            negative_weight = tl.load(negative_weights + column, mask=in_columns, other=0.0)
        negative_weight = tl.where(in_columns, negative_weight, 0.0).to(tl.float32)[None, :]
    if gammas is not None:
        gamma = tl.load(gammas + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
    if factors is not None:
        factor = tl.load(factors).to(tl.float32)

    total = tl.zeros((TILE_ROWS, BLOCK), tl.float32)
    positive_sum = tl.zeros((TILE_ROWS, BLOCK), tl.float32)
    negative_sum = tl.zeros((TILE_ROWS, BLOCK), tl.float32)
    first = part.to(tl.int64) * tiles_per_part * TILE_ROWS
    for tile in range(tiles_per_part):
        row = first + tile * TILE_ROWS + tl.arange(0, TILE_ROWS)
        in_rows = row < num_rows
        inside = in_rows[:, None] & in_columns[None, :]
        label = tl.load(labels + row, mask=in_rows, other=-1)
        scale = tl.where(label >= 0, factor, 0.0)
        if row_weights is not None:
            scale *= tl.load(row_weights + row, mask=in_rows, other=0.0).to(tl.float32)
        place = row[:, None] * row_stride + wide[None, :] * column_stride
        y = tl.load(logits + place, mask=inside, other=0.0).to(tl.float32)
        if groups is not None:
            group = tl.load(groups + row, mask=in_rows, other=0)
            of_group = group[:, None] * num_columns + column[None, :]
            if shift is not None:
                y += tl.load(shift + of_group, mask=inside, other=0.0).to(tl.float32)
        if BY_GROUP:
            other_weight = tl.load(negative_weights + of_group, mask=inside, other=0.0)
            other_weight = other_weight.to(tl.float32)
        else:
            other_weight = negative_weight
        positive = label[:, None] == column[None, :] + 1
        weight = tl.where(positive, positive_weight, other_weight) * scale[:, None]

        # A positive is a negative in the mirror. One exponential gives both halves: `small` is the
        # smaller of p and 1 - p, `log_large` the logarithm of the larger. One division serves them.
        x = tl.where(positive, -y, y)
        z = tl.exp(-tl.abs(x))
        one, two = 1.0 + z, 2.0 + z
        inverse = 1.0 / (one * two)
        large = two * inverse
        small = z * large
        log_large = -_log1p(z * one * inverse)
        p = tl.where(x >= 0, large, small)
        rest = tl.where(x >= 0, small, large)
        cost = tl.maximum(x, 0.0) - log_large
        if GAMMA == 0:
            modulated = weight
            slope = weight * p
        else:
            if GAMMA == 1:
                power = p
            elif GAMMA == 2:
                power = p * p
            else:
                power = tl.exp(gamma * (tl.minimum(x, 0.0) + log_large))
            modulated = weight * power
            slope = modulated * (gamma * rest * cost + p)
        entry = modulated * cost
        slope = tl.where(positive, -slope, slope)

        if quality is not None:
            q = tl.load(quality + row, mask=in_rows, other=0.0).to(tl.float32)[:, None]
            # x = -y here, so p and rest are those of the other answer.
            soft_cost = q * cost + (1.0 - q) * (tl.maximum(-x, 0.0) - log_large)
            difference = rest * (1.0 - q) - p * q
            distance = tl.abs(difference)
            sign = tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
            if GAMMA == 0:
                soft = weight
                soft_slope = weight * difference
            else:
                # |q - p|^(gamma - 1); a distance of 0 has no logarithm and takes no part. A smaller
                # number than this is a float64 to older versions of Triton.
                log_distance = tl.log(tl.maximum(distance, 1.2e-38))
                below = tl.where(distance > 0, tl.exp((gamma - 1.0) * log_distance), 0.0)
                # 0^0 is 1
                soft = weight * tl.where(gamma == 0, 1.0, below * distance)
                soft_slope = (
                    soft * difference + weight * below * gamma * sign * p * rest * soft_cost
                )
            entry = tl.where(positive, soft * soft_cost, entry)
            slope = tl.where(positive, soft_slope, slope)

        total += entry
        if gradient is not None:
            out = row[:, None] * num_columns + wide[None, :]
            tl.store(gradient + out, slope, mask=inside)
            positive_sum += tl.where(positive, tl.abs(slope), 0.0)
            negative_sum += tl.where(positive, 0.0, slope)

    tl.store(losses + program, tl.sum(tl.sum(total, 1), 0))
    if gradient is not None:
        into = part * num_columns + column
        tl.store(positives + into, tl.sum(positive_sum, 0), mask=in_columns)
        tl.store(negatives + into, tl.sum(negative_sum, 0), mask=in_columns)
