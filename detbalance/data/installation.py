"""The line that installs what is missing, for however this package was installed."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlparse

# No package index has the name: what works is a clone, or the place that it was installed from.
CLONE = 'pip install -e ".[{extra}]" in a clone of detbalance'


def needs(what: str, packages: str, extra: str) -> ImportError:
    """Return the error for a missing optional package, with the line that installs it."""
    return ImportError(f"{what} needs {packages}. Install with: {pip_line(extra)}")


def pip_line(extra: str) -> str:
    """Return the command that installs an extra from where the package itself came."""
    try:
        origin = json.loads(distribution("detbalance").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    url = origin.get("url", "")
    if "dir_info" in origin and url.startswith("file:"):
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f'pip install {editable}"{unquote(urlparse(url).path)}[{extra}]"'
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}"
    return f'pip install "detbalance[{extra}] @ {url}"' if url else CLONE.format(extra=extra)
