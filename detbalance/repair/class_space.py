"""The space that one-class models see, and how typical a region is of what one was fitted to.

Letters: n and m regions, F features, P dimensions of the space.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.repair.object_scores import Float64, Int64
from detbalance.repair.samples import CHUNK, Samples


def space_of(samples: Samples, rows: Int64, components: int = 64) -> Any:
    """Fit the space of one-class models: principal components of standardised features."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = finite(samples, rows)
    components = min(components, *features.shape)
    return make_pipeline(StandardScaler(), PCA(components, random_state=0)).fit(features)


def places_in(space: Any, samples: Samples, rows: Int64) -> NDArray[Any]:
    """Regions in the space, float [m, P], of some rows; those that are not finite are left out."""
    found = [np.zeros((0, 1))]
    for start in range(0, len(rows), CHUNK):
        features = finite(samples, rows[start : start + CHUNK])
        if len(features):
            found.append(np.asarray(space.transform(features)))
    return np.concatenate(found[1:] or found)


def finite(samples: Samples, rows: Int64) -> NDArray[np.float32]:
    """Features of some regions, float32 [m, F], of those where all are finite."""
    features = np.asarray(samples.features[rows], np.float32)
    return features[np.isfinite(features).all(axis=1)]


def fit_quietly(model: Any, places: NDArray[Any]) -> Any:
    """Fit a model to regions in the space; what its library warns of shows in held-out figures."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn|pyod")
        return model.fit(places)


def typicality(model: Any, places: NDArray[Any]) -> Float64:
    """How typical regions are of what a model was fitted to; more is more."""
    if type(model).__module__.startswith("pyod."):
        return -np.asarray(model.decision_function(places), np.float64)
    if hasattr(model, "score_samples"):
        return np.asarray(model.score_samples(places), np.float64)
    return -np.asarray(model.mahalanobis(places), np.float64)
