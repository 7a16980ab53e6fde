"""The sampler for configs of MMEngine, and of MMDetection and others that are built on it."""

from typing import Any

try:
    from mmengine.dist import get_dist_info
    from mmengine.registry import DATA_SAMPLERS
except ModuleNotFoundError as error:
    raise ImportError(
        f"{__name__} needs mmengine. Install it with: pip install mmengine"
    ) from error

from detbalance.sampling import FACTORS, RepeatFactorSampler


@DATA_SAMPLERS.register_module()
class DetbalanceSampler(RepeatFactorSampler):
    """`RepeatFactorSampler` as `sampler=dict(type="DetbalanceSampler", ...)` of a loader.

    Args:
        dataset: as it is trained on: filtered, concatenated. Each `get_data_info` has `instances`
            with a `bbox_label` 0..K-1; those with an `ignore_flag` do not count.
        method: key of `detbalance.sampling.FACTORS`; its options are further arguments.
        seed: from the runner; None, which it sends for `diff_rank_seed`, is 0 on all ranks.
        infinite: True for an `IterBasedTrainLoop`.
    """

    def __init__(
        self, dataset: Any, method: str = "repeat_factor", *, seed: int | None, **options: Any
    ) -> None:
        infinite = options.pop("infinite", False)
        infos = (dataset.get_data_info(index)["instances"] for index in range(len(dataset)))
        labels = [
            [b["bbox_label"] + 1 for b in boxes if not b.get("ignore_flag")] for boxes in infos
        ]
        factors = FACTORS[method](labels, **options)
        rank, ranks = get_dist_info()
        super().__init__(factors, seed=seed or 0, rank=rank, world_size=ranks, infinite=infinite)
