"""What every test may use."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from squares import make_data, write_config

# Read by pytest for doctests; it runs in a process of its own, see test_triton_kernel.py.
collect_ignore = ["support/interpreted_triton.py"]

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
    return make_data(tmp_path_factory.mktemp("squares"))


@pytest.fixture
def config_file(data: Path, tmp_path: Path) -> Path:
    """The configuration of a run on them."""
    return write_config(data, tmp_path)
