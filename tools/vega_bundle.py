"""Make the chart library that pages carry, `detbalance/reporting/templates/vega.js.gz`.

    python tools/vega_bundle.py

Needed only where another version of Vega shall be shipped: vl-convert (84 MB) and Zopfli, which
packs 4 % smaller than gzip, are in the dev extra.
"""

from __future__ import annotations

from pathlib import Path

import vl_convert
import zopfli.gzip

PATH = Path(__file__).parents[1] / "detbalance/reporting/templates/vega.js.gz"


def bundle() -> bytes:
    """Vega-Embed with Vega and Vega-Lite in it, as one compressed script; always the same bytes."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bytes(zopfli.gzip.compress(script.encode(), numiterations=15))


if __name__ == "__main__":
    PATH.write_bytes(bundle())
    print(f"{PATH}: {PATH.stat().st_size:,} bytes (vl-convert {vl_convert.__version__})")
