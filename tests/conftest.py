"""What every test may use."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

# Read by pytest for doctests; it runs in a process of its own, see test_triton_kernel.py.
collect_ignore = ["support/interpreted_triton.py"]
# With the extra [report] alone, the tests of these rooms run but for the files that need more.
_NEED = {
    "torch": [
        "calibration/test_bagging.py",
        "data/test_files.py",
        "sampling/test_batches.py",
        "sampling/test_class_aware.py",
        "sampling/test_order.py",
        "sampling/test_sampler.py",
        "sampling/test_streams.py",
    ],
    "PIL": ["data/test_fonts.py", "data/test_images.py"],
    "imagehash": ["data/test_duplicates.py"],
    "scipy": ["evaluation/test_bootstrap.py", "evaluation/test_comparison.py"],
}
for library, files in _NEED.items():
    if find_spec(library) is None:
        collect_ignore += files

# A busy machine is no fault of a test.
hypothesis.settings.register_profile("detbalance", deadline=None)
hypothesis.settings.load_profile("detbalance")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded reference values and real data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(
            f"needs recorded values and data sets in {SHARED}, which are no part of the repository"
        )
    return SHARED


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with squares, for a run of seconds."""
    from squares import make_data  # needs more than reading a report does

    return make_data(tmp_path_factory.mktemp("squares"))


@pytest.fixture
def config_file(data: Path, tmp_path: Path) -> Path:
    """The configuration of a run on them."""
    from squares import write_config

    return write_config(data, tmp_path)
