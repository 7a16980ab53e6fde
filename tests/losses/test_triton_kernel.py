"""The Triton kernel: in the interpreter, through the compiler for a GPU, and on one at hand."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_kernel import EVERYTHING, LABELS, QUALITY

from detbalance.losses import pytorch_kernel, sigmoid_loss_sum, triton_kernel

HERE = Path(__file__).parents[1] / "support"
needs_triton = pytest.mark.skipif(not triton_kernel.AVAILABLE, reason="needs Triton")


def needs_version(*oldest: int):
    """The tools around the kernel differ between versions of Triton; the kernel does not."""
    triton = triton_kernel.triton
    own = tuple(map(int, triton.__version__.split(".")[:2])) if triton else (0, 0)
    return pytest.mark.skipif(own < oldest, reason=f"needs Triton {oldest[0]}.{oldest[1]}")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run_python(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@needs_version(3, 6)
def test_triton_kernel_in_the_interpreter():
    file = HERE / "interpreted_triton.py"
    output = run_python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), TRITON_INTERPRET="1"
    )
    assert " passed" in output


COMPILE = """
import itertools, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from detbalance.losses import triton_kernel

numbers = dict.fromkeys(["positive_weight", "negative_weight", "gamma", "factor"], "fp32")
integers = ["num_rows", "num_columns", "blocks", "tiles_per_part", "row_stride", "column_stride"]
optional = ["gradient", "positives", "negatives", "positive_weights", "negative_weights", "gammas",
            "factors", "row_weights", "shift", "quality"]
names = triton_kernel._tiles.arg_names
for everything, dtype in itertools.product((False, True), ("fp32", "bf16")):
    signature = dict.fromkeys(names, "*fp32") | numbers | dict.fromkeys(integers, "i32")
    signature |= {"logits": "*" + dtype, "labels": "*i64", "groups": "*i64", "num_rows": "i64"}
    constants = {"GAMMA": -1 if everything else 2, "BY_GROUP": everything, "TILE_ROWS": 8,
                 "BLOCK": 128}
    if not everything:
        constants |= dict.fromkeys([*optional, "groups"])
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=triton_kernel._tiles, signature=signature, constexprs=constants)
    options = {"num_warps": 4, "enable_fp_fusion": True}
    code = compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm
    assert code["cubin"] and "atom." not in code["ptx"] and "red.global" not in code["ptx"]
print("compiled")
"""


@needs_version(3, 5)
@pytest.mark.skipif(sys.platform != "linux", reason="needs NVIDIA's assembler")
def test_triton_kernel_compiles_for_a_gpu_without_atomics(tmp_path):
    assert "compiled" in run_python("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path))


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from detbalance.losses import triton_kernel
assert not triton_kernel.AVAILABLE
assert not triton_kernel.works(torch.device("cuda:0"))
"""


def test_losses_work_where_triton_is_not_installed():
    run_python("-c", WITHOUT_TRITON)


@needs_triton
def test_a_triton_that_does_not_run_is_reported_once_and_not_used(monkeypatch, caplog):
    def fail(*arguments):
        raise RuntimeError("Failed to find C compiler")

    triton_kernel.works.cache_clear()
    monkeypatch.setattr(triton_kernel, "run", fail)
    device = torch.device("cpu")
    with caplog.at_level(logging.WARNING):
        assert not triton_kernel.works(device)
        assert not triton_kernel.works(device)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "slower PyTorch form there: RuntimeError: Failed to find C comp" in caplog.text
    triton_kernel.works.cache_clear()


@needs_triton
@pytest.mark.parametrize(
    ("columns", "width"), [(1, 4), (3, 4), (20, 32), (80, 32), (91, 32), (1203, 128), (1204, 128)]
)
def test_triton_kernel_blocks_fit_the_columns(columns, width):
    assert triton_kernel._column_block(columns) == width


# ---- on a GPU ------------------------------------------------------------------------------------


def problem(rows, columns, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(rows, columns, generator=generator)).to(dtype)
    labels = torch.randint(-1, columns + 1, (rows,), generator=generator)
    options = {
        "positive_weight": torch.rand(columns, generator=generator),
        "negative_weight": torch.rand(3, columns, generator=generator),
        "gamma": 1 + 3 * torch.rand(columns, generator=generator),
        "normalizer": torch.tensor(7),
        "row_weights": torch.rand(rows, generator=generator),
        "groups": torch.randint(0, 3, (rows,), generator=generator),
        "shift": torch.randn(3, columns, generator=generator),
    }
    return logits, labels, options, torch.rand(rows, generator=generator)


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 1), (5000, 80), (700, 1203)])
@pytest.mark.parametrize("case", ["plain", "gamma 2", "everything", "quality"])
def test_triton_equals_the_pytorch_form_on_a_gpu(dtype, rows, columns, case):
    logits, labels, everything, quality = problem(rows, columns, dtype)
    options = {
        "plain": {},
        "gamma 2": {"gamma": 2.0, "positive_weight": 0.25, "negative_weight": 0.75},
        "everything": everything,
        "quality": {**everything, "quality": quality},
    }[case]
    on_gpu = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    assert triton_kernel.works(torch.device("cuda", torch.cuda.current_device()))
    names = ("row_weights", "groups", "shift", "quality")
    numbers = dict.fromkeys(("positive_weight", "negative_weight", "normalizer"), 1.0)
    terms = pytorch_kernel.Terms(**{**numbers, "gamma": 0.0, **dict.fromkeys(names), **on_gpu})
    ours = triton_kernel.run(logits.cuda(), labels.cuda(), terms, True)
    expected = pytorch_kernel.run(logits.cuda(), labels.cuda(), terms, True)
    for value, other in zip(ours, expected, strict=True):
        atol = 1e-30 + 1e-6 * (other.abs().max().item() if other.numel() else 0)
        torch.testing.assert_close(value, other, rtol=2e-5, atol=atol)
    on_cpu = sigmoid_loss_sum(logits, labels, **options)
    torch.testing.assert_close(ours[0].cpu(), on_cpu.loss, rtol=2e-5, atol=1e-6)


@pytest.mark.gpu
@needs_gpu
def test_kernel_uses_triton_on_a_gpu_and_float64_does_not(monkeypatch):
    calls = []
    run = triton_kernel.run
    monkeypatch.setattr(triton_kernel, "run", lambda *a: calls.append(1) or run(*a))
    options = {k: v.cuda() for k, v in {**EVERYTHING, **QUALITY}.items()}
    for dtype, used in ((torch.float32, 1), (torch.float64, 0)):
        logits = torch.randn(5, 3, device="cuda", dtype=dtype, requires_grad=True)
        triton_kernel.works(logits.device)
        calls.clear()
        slopes = []
        for factor in (1.0, 0.5):
            logits.grad = None
            (factor * sigmoid_loss_sum(logits, LABELS.cuda(), **options).loss).backward()
            slopes.append(logits.grad)
        assert len(calls) == 2 * used * triton_kernel.AVAILABLE
        assert torch.equal(0.5 * slopes[0], slopes[1])


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_triton_reaches_beyond_two_billion_elements():
    rows, columns = 2**25 + 3, 80
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("needs 30 GB of GPU memory")
    logits = torch.zeros(rows, columns, device="cuda", requires_grad=True)
    labels = torch.zeros(rows, dtype=torch.int64, device="cuda")
    labels[-1] = columns
    sums = sigmoid_loss_sum(logits, labels)
    sums.loss.backward()
    assert logits.grad[-1].tolist() == [0.5] * (columns - 1) + [-0.5]
    assert (logits.grad.sum(1)[:-1] == columns / 2).all()
    assert sums.positive[-1] == 0.5
