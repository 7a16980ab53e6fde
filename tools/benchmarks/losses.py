"""Focal loss, forward and backward: this package against torchvision's, plain and compiled.

Labels are class indices, as detectors have them. torchvision's loss needs them as a one-hot tensor,
which is made within the measured time; the compiled one compares with the class numbers, so that
the compiler need not keep that tensor. "by class" is the form of Equalized Focal Loss: another
gamma and other weights for each class.

On the CPU: one thread, median of the CPU time of the runs (other programs on the machine hardly
change it), the ways taking turns. Extra memory is the peak of what PyTorch's allocator holds above
logits and labels, from the profiler's record of every allocation, in units of the logits' size; it
is the same in each run. The gradient that is asked for is 1.0 of it.

On a GPU, if there is one: wall time by events, and the allocator's own peak. The bound is the time
in which a plain copy moves as many bytes as the logits and the gradient have. One case more has
1,203 classes and so many rows that torchvision's loss does not fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import sigmoid_focal_loss

from detbalance.losses import sigmoid_loss_sum

# rows, classes, share of rows with an object; anchors of a one-stage head, then sampled regions
SIZES = {
    "400,000 x 80": (400_000, 80, 0.01),
    "26,000 x 1,203": (26_000, 1203, 0.25),
}
STOCK = "torchvision"
COMPILED = "torchvision, torch.compile"
OURS = "detbalance"
BY_CLASS = "detbalance, by class"
RUNS = {"cpu": 7, "cuda": 20}


def main() -> dict[str, Any]:
    """Measure all sizes on the CPU, and on a GPU if there is one; print and return the figures.

    Returns:
        By device and size, for each way: ms, extra_memory, and times_faster than torchvision's.
    """
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"cpu": {}}
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        figures[device] = {name: measure(device, *size) for name, size in SIZES.items()}
        for name, ways in figures[device].items():
            print(f"\n{device}, {name}{'':14}ms      faster  extra memory")
            for way, row in ways.items():
                cells = "".join(f"{value:>12.2f}" for value in row.values())
                print(f"{way:28}{cells}")
    if torch.cuda.is_available():
        figures["gpu"] = torch.cuda.get_device_name()
        figures["rows that fit at 1,203 classes"] = largest_batches()
        print(figures["rows that fit at 1,203 classes"])
    return figures


def table(figures: dict[str, Any]) -> str:
    """Rows: sizes and ways. Columns: time, how many times faster, extra memory."""
    lines = ["| | forward + backward | times faster | extra memory |", "|---" * 4 + "|"]
    for device in ("cpu", "cuda"):
        where = {"cpu": "CPU, one thread", "cuda": figures.get("gpu")}[device]
        for name, ways in figures.get(device, {}).items():
            for way, row in ways.items():
                digits = 0 if device == "cpu" else 2
                faster = "" if way == STOCK else f"{row['times_faster']:.1f}x"
                lines.append(
                    f"| {where}, {name}: {way} | {row['ms']:.{digits}f} ms | {faster}"
                    f" | {row['extra_memory']:.2f}x the logits |"
                )
    for way, rows in figures.get("rows that fit at 1,203 classes", {}).items():
        lines.append(
            f"| {figures['gpu']}, 1,203 classes, largest batch: {way} | {rows:,} rows | | |"
        )
    return "\n".join(lines)


def measure(device: str, rows: int, classes: int, objects: float) -> dict[str, dict[str, float]]:
    """Time and memory of each way; all must agree before their times count."""
    logits, labels = problem(device, rows, classes, objects)
    ways = ways_of(logits, labels)
    expected = ways[STOCK]()
    slope = gradient_after(ways[STOCK], logits)
    for way in (COMPILED, OURS):
        torch.testing.assert_close(ways[way](), expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(gradient_after(ways[way], logits), slope, rtol=1e-3, atol=1e-6)
    del slope
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(RUNS[device] + 1):
        for way, call in ways.items():
            logits.grad = None
            spent = timed(device, lambda call=call: call().backward())
            if turn:
                times[way].append(spent)
    figures = {}
    for way, call in ways.items():
        figures[way] = {
            "ms": median(times[way]),
            "times_faster": median(times[STOCK]) / median(times[way]),
            "extra_memory": peak(device, call, logits) / (logits.numel() * logits.element_size()),
        }
    if device == "cuda":
        figures["a copy of logits and gradient (bound)"] = {
            "ms": bound(logits),
            "times_faster": median(times[STOCK]) / bound(logits),
            "extra_memory": 1.0,
        }
    return figures


def problem(device: str, rows: int, classes: int, objects: float) -> tuple[Tensor, Tensor]:
    """Logits as of a head at the start of training, and labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator) - 4.6
    drawn = torch.randint(1, classes + 1, (rows,), generator=generator)
    labels = drawn.masked_fill(torch.rand(rows, generator=generator) > objects, 0)
    return logits.to(device).requires_grad_(), labels.to(device)


def ways_of(logits: Tensor, labels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The sum of the loss, by each way."""
    classes = logits.shape[1]
    numbers = torch.arange(1, classes + 1, device=logits.device)

    def stock() -> Tensor:
        targets = torch.zeros_like(logits)
        foreground = labels > 0
        targets[foreground, labels[foreground] - 1] = 1.0
        return sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="sum")

    def compare(logits: Tensor, labels: Tensor) -> Tensor:
        targets = (labels[:, None] == numbers).to(logits.dtype)
        return sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="sum")

    compiled = torch.compile(compare)
    share = torch.linspace(0, 1, classes, device=logits.device)
    gamma, weight = 2 + 8 * share, 1 + 4 * share
    by_class = {"gamma": gamma, "positive_weight": 0.25 * weight, "negative_weight": 0.75 * weight}
    plain = {"gamma": 2.0, "positive_weight": 0.25, "negative_weight": 0.75}
    return {
        STOCK: stock,
        COMPILED: lambda: compiled(logits, labels),
        OURS: lambda: sigmoid_loss_sum(logits, labels, **plain).loss,
        BY_CLASS: lambda: sigmoid_loss_sum(logits, labels, **by_class).loss,
    }


def gradient_after(call: Callable[[], Tensor], logits: Tensor) -> Tensor:
    """The gradient of one way."""
    logits.grad = None
    call().backward()
    gradient, logits.grad = logits.grad, None
    return gradient


def timed(device: str, call: Callable[[], Any]) -> float:
    """Milliseconds: CPU time on the CPU, between two events on a GPU."""
    if device == "cpu":
        start = time.process_time()
        call()
        return 1000 * (time.process_time() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def peak(device: str, call: Callable[[], Tensor], logits: Tensor) -> float:
    """The most bytes that were held at a time above those of before."""
    logits.grad = None
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call().backward()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call().backward()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    logits.grad = None
    return most


def bound(logits: Tensor) -> float:
    """Milliseconds in which a copy reads and writes the bytes of the logits and the gradient."""
    source, target = logits.detach(), torch.empty_like(logits)
    return median(timed("cuda", lambda: target.copy_(source)) for _ in range(RUNS["cuda"]))


def largest_batches() -> dict[str, int]:
    """How many rows of 1,203 classes fit on the GPU by torchvision's loss and by ours."""
    figures = {}
    for way in (STOCK, OURS):
        rows = 1_000_000
        while fits(way, rows):
            rows = int(rows * 1.25)
        figures[way] = int(rows / 1.25)
    return figures


def fits(way: str, rows: int) -> bool:
    """Whether a step of so many rows runs."""
    torch.cuda.empty_cache()
    try:
        logits = torch.zeros(rows, 1203, device="cuda", requires_grad=True)
        labels = torch.ones(rows, dtype=torch.int64, device="cuda")
        ways_of(logits, labels)[way]().backward()
    except torch.OutOfMemoryError:
        return False
    return True


if __name__ == "__main__":
    main()
