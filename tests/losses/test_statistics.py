"""Running gradient sums: what may change them, and that one large batch and its parts agree."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from focal import run
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detbalance.losses import (
    EqualizationLossV2,
    EqualizedFocalLoss,
    EqualizedQualityFocalLoss,
    SigmoidFocalLoss,
)
from detbalance.losses.statistics import (
    GradientGauge,
    GradientSums,
    outside_graphs,
    sum_over_ranks,
)

COUNTS = [0, 500, 40, 3]
KINDS = {
    "equalization_v2": EqualizationLossV2,
    "equalized_focal": EqualizedFocalLoss,
    "equalized_quality_focal": EqualizedQualityFocalLoss,
}


@pytest.fixture(params=KINDS, ids=str)
def loss(request):
    return KINDS[request.param](COUNTS)


def batch(loss, seed, rows=12):
    """Logits, labels and the extra inputs of the loss, in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, loss.num_outputs, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 4, (rows,), generator=generator)
    quality = torch.rand(rows, generator=generator, dtype=torch.float64)
    return logits, labels, {"quality": quality} if loss.extra_inputs else {}


def part(call, rows):
    logits, labels, options = call
    return logits[rows], labels[rows], {name: value[rows] for name, value in options.items()}


def learn(loss, *calls, **options):
    for logits, labels, more in calls:
        run(loss, logits, labels, **more, **options)


def state_of(loss):
    sums = loss.gradients
    return torch.stack([sums.positive, sums.negative, sums.steps.expand_as(sums.positive)]).numpy()


def assert_same_state(loss, other, rtol=1e-12):
    np.testing.assert_allclose(state_of(loss), state_of(other), rtol=rtol)
    assert state_of(loss).any()


# ---- what changes the state, and what does not ---------------------------------------------------


def test_state_changes_in_training_only(loss):
    """QUIRKS 12: the reference's changes in eval mode and under no_grad, too."""
    logits, labels, options = batch(loss, 0)
    before = state_of(loss)
    with torch.no_grad():
        loss(logits.clone().requires_grad_(), labels, **options)
    loss(logits, labels, **options)  # constant logits
    loss.eval()
    run(loss, logits, labels, **options)
    assert (state_of(loss) == before).all()
    loss.train()
    run(loss, logits, labels, **options)
    assert loss.gradients.steps == 1


def test_state_of_a_second_step_depends_on_the_first(loss):
    other = copy.deepcopy(loss)
    learn(loss, batch(loss, 0), batch(loss, 1))
    learn(other, batch(loss, 1), batch(loss, 0))
    assert not np.allclose(state_of(loss), state_of(other), rtol=1e-6)


def test_state_does_not_see_the_scale_of_the_gradients(loss):
    logits, labels, options = batch(loss, 0)
    other = copy.deepcopy(loss)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(2):
        plain, scaled = (logits.clone().requires_grad_() for _ in range(2))
        loss(plain, labels, **options).backward()
        scaler.scale(other(scaled, labels, **options)).backward()
        torch.testing.assert_close(scaled.grad, plain.grad * 1024.0, rtol=1e-14, atol=0)
    assert (state_of(loss) == state_of(other)).all()


@pytest.mark.parametrize("cut", [0, 5, 12])
def test_accumulated_calls_are_one_large_batch(loss, cut):
    whole, parts = loss, copy.deepcopy(loss)
    parts.accumulation = 2
    for seed in range(3):
        call = batch(loss, seed)
        learn(whole, call)
        between = state_of(parts)
        learn(parts, part(call, slice(cut)))
        assert (state_of(parts) == between).all()
        learn(parts, part(call, slice(cut, None)))
    assert_same_state(whole, parts)


def test_accumulated_background_counts_no_foreground_row(loss):
    whole, parts = loss, copy.deepcopy(loss)
    parts.accumulation = 2
    logits, labels, options = batch(loss, 0)
    labels = torch.cat([labels[:6] * 0, labels[6:]])
    call = logits, labels, options
    learn(whole, call)
    learn(parts, part(call, slice(6)), part(call, slice(6, None)))
    assert_same_state(whole, parts)


@pytest.mark.parametrize("rows", [1, 8])
def test_batches_without_foreground_are_divided_by_one(loss, rows):
    logits = torch.zeros(rows, loss.num_outputs, dtype=torch.float64)
    learn(loss, (logits, torch.zeros(rows, dtype=torch.int64), {}))
    assert (loss.gradients.positive == 0).all()
    first = state_of(loss)[1]
    other = type(loss)(COUNTS)
    learn(other, (logits[:1], torch.zeros(1, dtype=torch.int64), {}))
    np.testing.assert_allclose(first, state_of(other)[1] * rows, rtol=1e-12)


def test_order_and_levels_of_rows_do_not_matter(loss):
    """Rows of a feature pyramid come level by level, in whatever order a head joins them."""
    other = copy.deepcopy(loss)
    for seed in range(3):
        call = batch(loss, seed)
        learn(loss, call)
        levels = [torch.arange(7, 12), torch.arange(0, 3), torch.arange(3, 7)]
        learn(other, part(call, torch.cat(levels)))
    assert_same_state(loss, other)


def test_rows_with_their_own_normalizers_are_weighted_by_them(loss):
    """As a head does that averages the losses of its images."""
    call, other = batch(loss, 0), copy.deepcopy(loss)
    image = torch.arange(12) % 2
    found = torch.stack([((call[1] > 0) & (image == i)).sum() for i in range(2)]).clamp(min=1)
    learn(loss, call, normalizer=(2 * found[image]).double())
    assert found[0] != found[1]
    other.accumulation = 2
    for i in range(2):
        learn(other, part(call, image == i), normalizer=found[i].double().repeat(6))
    assert_same_state(loss, other)


def test_a_step_that_is_not_finite_is_left_out(loss):
    """Under mixed precision a scaler skips such a step; the state must not keep it."""
    learn(loss, batch(loss, 0))
    before = state_of(loss)
    logits, labels, options = batch(loss, 1)
    logits[3, 1], labels[3] = float("nan"), 0
    run(loss, logits, labels, **options)
    assert (state_of(loss) == before).all()
    logits[3, 1] = float("inf")
    run(loss, logits, labels, **options)
    assert np.isfinite(state_of(loss)).all()
    learn(loss, batch(loss, 2))
    assert (state_of(loss)[:2] > before[:2]).any()


def test_no_communication_without_a_process_group(loss, monkeypatch):
    """QUIRKS 11: the reference calls all_reduce whatever there is."""

    def refuse(*_, **__):
        raise AssertionError("there is no process group")

    for name in ("all_reduce", "all_gather", "broadcast", "barrier", "get_world_size"):
        monkeypatch.setattr(dist, name, refuse)
    learn(loss, batch(loss, 0))
    values = torch.ones(2)
    assert sum_over_ranks(values) is values


# ---- saving, casting, copying --------------------------------------------------------------------


def test_state_is_saved_and_continues_bit_for_bit(loss):
    learn(loss, batch(loss, 0), batch(loss, 1))
    saved = pickle.loads(pickle.dumps(loss.state_dict()))
    assert {"gradients.positive", "gradients.negative", "gradients.steps"} <= set(saved)
    other = type(loss)(COUNTS)
    other.load_state_dict(saved)
    logits, labels, options = batch(loss, 2)
    value, gradient = run(loss, logits, labels, **options)
    again, same = run(other, logits, labels, **options)
    assert value == again
    assert (gradient == same).all()
    assert (state_of(loss) == state_of(other)).all()


def test_state_of_another_loss_is_refused(loss):
    for kind in {*KINDS.values(), SigmoidFocalLoss} - {type(loss)}:
        with pytest.raises((ValueError, RuntimeError), match=type(loss).__name__):
            kind(COUNTS).load_state_dict(loss.state_dict(), strict=False)


def test_state_keeps_its_precision_in_casts_and_copies(loss):
    learn(loss, batch(loss, 0))
    state, following = state_of(loss), batch(loss, 1)
    expected = run(loss.eval(), *following[:2], **following[2])[0]
    for other in (
        copy.deepcopy(loss).half(),
        copy.deepcopy(loss).to(torch.bfloat16),
        copy.deepcopy(loss).float(),
        nn.Sequential(nn.Linear(2, 2), copy.deepcopy(loss)).half()[1],
        pickle.loads(pickle.dumps(loss)),
    ):
        assert other.gradients.positive.dtype == torch.float64
        assert other.gradients.steps.dtype == torch.int64
        assert (state_of(other) == state).all()
        assert run(other, *following[:2], **following[2])[0] == expected


def test_float32_and_half_logits_give_the_same_state_to_their_precision(loss):
    logits, labels, options = batch(loss, 0)
    logits = logits.to(torch.bfloat16)
    single, half = copy.deepcopy(loss), copy.deepcopy(loss)
    run(loss, logits.double(), labels, **options)
    run(single, logits.float(), labels, torch.float32, **options)
    with torch.autocast("cpu", torch.bfloat16):
        run(half, logits, labels, torch.bfloat16, **options)
    assert_same_state(single, loss, rtol=2e-5)
    assert (state_of(half) == state_of(single)).all()


class Head(nn.Module):
    """A last layer with its loss."""

    def __init__(self, loss):
        super().__init__()
        self.layer, self.loss = nn.Linear(4, loss.num_outputs, dtype=torch.float64), loss
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.constant_(self.layer.bias, -0.5)

    def forward(self, x, labels, normalizer=None):
        return self.loss(self.layer(torch.sin(x)), labels, normalizer=normalizer)


# Raised inside of torch.compile, about its own tensors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_state_is_the_same_in_a_compiled_model(loss):
    x, labels = torch.randn(9, 4, dtype=torch.float64), torch.randint(-1, 4, (9,))
    plain, compiled = Head(loss), Head(copy.deepcopy(loss))
    plain.loss.accumulation = compiled.loss.accumulation = 2
    run_compiled = torch.compile(compiled, backend="aot_eager")
    for _ in range(4):
        plain(x, labels).backward()
        run_compiled(x, labels).backward()
    torch.testing.assert_close(compiled.layer.weight.grad, plain.layer.weight.grad)
    assert_same_state(plain.loss, compiled.loss)
    assert plain.loss.gradients.steps == 2


# ---- several processes ---------------------------------------------------------------------------


def ranks_of(call, cut):
    """Both processes' rows of a batch, and what each divides by: the mean over processes."""
    normalizer = (call[1] > 0).sum().clamp(min=1).item() / 2
    parts = (part(call, slice(cut)), part(call, slice(cut, None)))
    return [(*p[:2], {**p[2], "normalizer": normalizer}) for p in parts]


def shared_problem():
    """For each loss the batches of several steps, with unequal, empty and background halves."""
    problem = {}
    for name, kind in KINDS.items():
        loss = kind(COUNTS)
        calls = [batch(loss, seed) for seed in range(4)]
        calls[3] = calls[3][0], torch.cat([calls[3][1][:6] * 0, calls[3][1][6:]]), calls[3][2]
        problem[name] = [
            (call, ranks_of(call, cut)) for call, cut in zip(calls, (6, 4, 12, 6), strict=True)
        ]
    return problem


def _rank(rank: int, path: str, recorded, results) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    found = {}
    for name, steps in shared_problem().items():
        loss = KINDS[name](COUNTS)
        answers = [run(loss, *parts[rank][:2], **parts[rank][2]) for _, parts in steps]
        found[name] = answers, state_of(loss)
    if recorded is not None:
        loss, values, states = EqualizationLossV2([1] * 4), [], []
        for logits, labels in zip(*(value[rank] for value in recorded), strict=True):
            values.append(run(loss, logits, labels)[0])
            sums = loss.gradients
            states.append(torch.stack([sums.positive, sums.negative, sums.ratio()]).numpy())
        found["recorded"] = values, np.stack(states)
    # Accumulation without no_sync(): here buffers are sent from rank 0 before every call.
    torch.manual_seed(0)
    x, labels = torch.randn(16, 4, dtype=torch.float64), torch.arange(16) % 4
    head = Head(EqualizedFocalLoss(COUNTS))
    head.loss.accumulation = 2
    wrapped = DistributedDataParallel(head)
    for i in range(4):
        rows = slice(4 * i + 2 * rank, 4 * i + 2 * rank + 2)
        wrapped(x[rows], labels[rows], normalizer=1.0).backward()
    found["wrapped"] = state_of(head.loss)
    results.put((rank, found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, request):
    path = request.config.rootpath.parent / "shared/golden/eqlv2_two_ranks.npz"
    recorded = None
    if path.exists():
        z = np.load(path)
        labels = np.where(z["labels"] == 3, 0, z["labels"] + 1)
        recorded = np.roll(z["logits"], 1, axis=3), labels
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    init = str(tmp_path_factory.mktemp("ranks") / "init")
    workers = [context.Process(target=_rank, args=(r, init, recorded, queue)) for r in range(2)]
    for worker in workers:
        worker.start()
    found = dict(queue.get() for _ in workers)
    for worker in workers:
        worker.join()
    return found


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_have_the_state_and_the_loss_of_the_whole_batch(two_ranks, name):
    loss = KINDS[name](COUNTS)
    ours = [two_ranks[rank][name] for rank in range(2)]
    for t, (call, parts) in enumerate(shared_problem()[name]):
        total = 2 * parts[0][2]["normalizer"]
        value, gradient = run(loss, *call[:2], **call[2], normalizer=total)
        assert np.mean([answers[t][0] for answers, _ in ours]) == pytest.approx(value, rel=1e-12)
        joined = np.concatenate([answers[t][1] for answers, _ in ours]) / 2
        np.testing.assert_allclose(joined, gradient, rtol=1e-10, atol=1e-18)
    for _, state in ours:
        np.testing.assert_allclose(state, state_of(loss), rtol=1e-12)
    assert (ours[0][1] == ours[1][1]).all()


def test_two_processes_equal_the_recorded_ones(shared, two_ranks):
    """QUIRKS 11: the reference sums over processes."""
    z = np.load(shared / "golden/eqlv2_two_ranks.npz")
    for rank in range(2):
        values, states = two_ranks[rank]["recorded"]
        np.testing.assert_allclose(values, z["loss_f64"][rank], rtol=1e-10)
        np.testing.assert_allclose(states, z["state_f64"][rank], rtol=1e-10)


def test_accumulation_is_right_where_buffers_are_broadcast_between_calls(two_ranks):
    torch.manual_seed(0)
    x, labels = torch.randn(16, 4, dtype=torch.float64), torch.arange(16) % 4
    head = Head(EqualizedFocalLoss(COUNTS))
    for rows in (slice(8), slice(8, None)):
        head(x[rows], labels[rows]).backward()
    for rank in range(2):
        np.testing.assert_allclose(two_ranks[rank]["wrapped"], state_of(head.loss), rtol=1e-12)


# ---- the parts by themselves ---------------------------------------------------------------------


def test_gradient_sums_divide_by_the_normalizers_of_a_step():
    sums = GradientSums(2, initial_ratio=7.0)
    assert sums.ratio().tolist() == [7, 7]
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0])
    sums.add(one, two, normalizer=torch.tensor(3), accumulation=2)
    assert sums.ratio().tolist() == [7, 7]
    sums.add(one, two, normalizer=1.0, accumulation=2)
    assert sums.positive.tolist() == [0.5, 0]
    assert sums.negative.tolist() == [1, 2]
    sums.add(one, two, normalizer=0.0)
    assert sums.positive.tolist() == [1.5, 0]
    assert sums.ratio().numpy() == pytest.approx([0.5, 0.0])
    assert sums.steps == 2
    assert set(sums.state_dict()) == {"positive", "negative", "steps"}


def test_push_gauge_is_read_once():
    gauge = GradientGauge(3)
    assert gauge.take().tolist() == [[0, 0, 0], [0, 0, 0]]
    gauge.add(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    gauge.add(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert gauge.take().tolist() == [[0, 2, 2], [0, 3, 5]]
    assert gauge.take().tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_state_on_the_gpu_is_that_of_the_cpu(loss):
    on_gpu = copy.deepcopy(loss).cuda()
    for seed in range(3):
        logits, labels, options = batch(loss, seed)
        run(loss, logits, labels, torch.float32, **options)
        x = logits.float().cuda().requires_grad_()
        on_gpu(x, labels.cuda(), **{k: v.cuda() for k, v in options.items()}).backward()
    assert_same_state(on_gpu.cpu(), loss, rtol=2e-5)


# ---- what stays out of compiled graphs -----------------------------------------------------------


@outside_graphs
def is_compiled(x):
    """1 where a compiler has seen this function, else 0."""
    return x * 0 + (1 if torch.compiler.is_compiling() else 0)


@pytest.mark.parametrize("break_before", [False, True])
def test_function_is_not_compiled_with_its_caller(break_before):
    def model(x):
        if break_before:
            torch._dynamo.graph_break()
        return is_compiled(x * 2) + 5 * is_compiled(x) + torch.compiler.is_compiling()

    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        assert compiled(torch.ones(2)).tolist() == [1, 1]
