"""What installs a missing package: a line that works, since no index has this one's name."""

import importlib.metadata
import json

import pytest

from detbalance.data import messages
from detbalance.data.messages import needs, pip_line


class _Installed:
    def __init__(self, origin):
        self.origin = origin

    def read_text(self, name):
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        (
            {"url": "file:///home/me/a%20b", "dir_info": {"editable": True}},
            'pip install -e "/home/me/a b[page]"',
        ),
        ({"url": "file:///src", "dir_info": {}}, 'pip install "/src[page]"'),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            'pip install "detbalance[page] @ git+https://host/x.git"',
        ),
        (
            {"url": "https://host/x.whl", "archive_info": {}},
            'pip install "detbalance[page] @ https://host/x.whl"',
        ),
        (None, 'pip install -e ".[page]" in a clone of detbalance'),
    ],
)
def test_the_line_names_the_place_that_the_package_came_from(monkeypatch, origin, line):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: _Installed(origin))
    assert pip_line("page") == line
    assert (
        str(needs("the page", "jinja2", "page")) == f"the page needs jinja2. Install with: {line}"
    )


def test_without_metadata_the_line_speaks_of_a_clone(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert pip_line("page") == messages.CLONE.format(extra="page")
