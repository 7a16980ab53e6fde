"""Options of losses that are out of their range."""

from __future__ import annotations

import math

import pytest

from detbalance.losses import LOSSES, ClassCounts

COUNTS = ClassCounts([0, 500, 40, 3, 0], [0, 300, 30, 3, 0], 400)
BAD = [
    ("focal", {"alpha": 1.5}, r"alpha is 1\.5. Expected numbers in \[0, 1\], or -1"),
    ("focal", {"alpha": -0.5}, r"alpha is -0\.5"),
    ("focal", {"alpha": [0.5, 0.5]}, "alpha has 2 values. Expected one number, or 4"),
    ("focal", {"alpha": [0.5, 0.5, 0.5, math.nan]}, "alpha is .*nan"),
    ("focal", {"gamma": -1.0}, r"gamma is -1\.0. Expected finite numbers >= 0"),
    ("focal", {"gamma": math.inf}, "gamma is inf"),
    ("focal", {"gamma": [2.0] * 5}, "gamma has 5 values.*Leave background out"),
    ("focal", {"prior": 0.0}, r"prior is 0\.0. Expected a number > 0 and < 1"),
    ("equalization_v2", {"gamma": 0.0}, r"gamma is 0\.0. Expected a number > 0. Usual is 12"),
    ("equalization_v2", {"gamma": math.inf}, "gamma is inf"),
    ("equalization_v2", {"mu": math.nan}, "mu is nan. Expected a finite number"),
    ("equalization_v2", {"alpha": -1.0}, r"alpha is -1\.0. Expected a number >= 0"),
    ("equalization_v2", {"prior": 1.0}, r"prior is 1\.0"),
    ("equalized_focal", {"gamma": 0.0}, r"gamma is 0\.0. Expected a number > 0. Usual is 2"),
    ("equalized_focal", {"gamma": math.inf}, "gamma is inf"),
    ("equalized_focal", {"scale": -1.0}, r"scale is -1\.0. Expected a number >= 0"),
    ("equalized_focal", {"alpha": 1.5}, r"alpha is 1\.5. Expected a number >= 0 and <= 1. -1 is"),
    ("equalized_focal", {"alpha": math.nan}, "alpha is nan"),
    ("equalized_focal", {"prior": 0.0}, r"prior is 0\.0"),
    ("federated", {"classes_per_batch": 0}, "classes_per_batch is 0. Expected a whole number >= 1"),
    ("federated", {"power": -0.5}, r"power is -0\.5. Expected a number >= 0. Usual is 0\.5"),
    ("federated", {"power": math.inf}, "power is inf"),
    ("federated", {"prior": 1.0}, r"prior is 1\.0"),
    ("ldam", {"max_margin": -0.5}, r"max_margin is -0.5. Expected a number >= 0. Usual is 0.5"),
    ("ldam", {"max_margin": math.nan}, "max_margin is nan"),
    ("ldam", {"scale": 0.0}, r"scale is 0.0. Expected a number > 0. Usual is 30"),
    ("ldam", {"scale": math.inf}, "scale is inf"),
    ("ldam", {"deferred_after": -1}, r"deferred_after is -1. Expected a whole number >= 0"),
    ("ldam", {"deferred_beta": 1.0}, r"deferred_beta is 1.0. Expected a number >= 0 and < 1"),
    ("seesaw", {"p": -0.1}, r"p is -0.1. Expected a number >= 0. Usual is 0.8; 0 turns this part"),
    ("seesaw", {"q": math.inf}, r"q is inf. Expected a number >= 0. Usual is 2"),
    ("seesaw", {"eps": 0.0}, r"eps is 0.0. Expected a number > 0 and <= 1. Usual is 0.01"),
    ("seesaw", {"eps": math.nan}, "eps is nan"),
    ("group_softmax", {"group_limits": [100.0, 10.0]}, "group_limits is .100.*ascending"),
    ("group_softmax", {"group_limits": [10.0, 10.0]}, "group_limits is .*ascending. Usual is"),
    ("group_softmax", {"group_limits": [0.0, 10.0]}, "group_limits is .*finite numbers > 0"),
    ("group_softmax", {"group_limits": [10.0, math.inf]}, "group_limits is .*inf"),
    ("group_softmax", {"others_ratio": -1.0}, "others_ratio is -1.*>= 0. Usual is 8"),
    ("group_softmax", {"others_ratio": math.nan}, "others_ratio is nan"),
    ("equalized_quality_focal", {"gamma": 0.5}, r"gamma is 0\.5. Expected a number >= 1"),
    ("equalization", {"frequency_threshold": -0.1}, "frequency_threshold is .* <= 1. A frac"),
    ("equalization", {"frequency_threshold": 1.5}, "frequency_threshold is .* <= 1. A frac"),
    ("equalization", {"frequency_threshold": math.nan}, "frequency_threshold is .* <= 1. A frac"),
    ("logit_adjustment", {"tau": -0.1}, "tau is .*>= 0. 0 changes"),
    ("cross_entropy", {"posthoc_tau": -0.1}, "posthoc_tau is .*>= 0. 0 changes"),
    ("logit_adjustment", {"tau": math.nan}, "tau is .*>= 0. 0 changes"),
    ("cross_entropy", {"posthoc_tau": math.nan}, "posthoc_tau is .*>= 0. 0 changes"),
    ("logit_adjustment", {"tau": math.inf}, "tau is .*>= 0. 0 changes"),
    ("cross_entropy", {"posthoc_tau": math.inf}, "posthoc_tau is .*>= 0. 0 changes"),
]


@pytest.mark.parametrize(("loss", "options", "message"), BAD)
def test_bad_options_are_refused(loss, options, message):
    with pytest.raises(ValueError, match=f"^{LOSSES[loss].__name__}: {message}"):
        LOSSES[loss](COUNTS, **options)
