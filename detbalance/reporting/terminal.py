"""The console that all commands print on: texts of others are shown, never obeyed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detbalance.data.messages import needs, printable

try:
    import rich.console
    from rich.segment import Segment
except ImportError as exc:
    raise needs("detbalance.reporting.terminal", "rich", "report") from exc


class Console(rich.console.Console):
    """The console of rich, which reads no markup and passes no control character of a text on."""

    def __init__(self, **options: Any) -> None:
        """Take the options of rich's console."""
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        """Render as rich does; what rich itself has to say to the terminal stays."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=printable(segment.text, keep="\n"))
