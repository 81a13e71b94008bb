"""Line plots as SVG text, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, places: Sequence[str] = ()) -> str:
    """Draw named series of (xs, ys) into one SVG element.

    Args:
        series: points by legend name.
        x: axis label.
        y: axis label.
        places: names of x = 0, 1, 2...; each point is then marked by a dot.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Without a fixed salt and date the same figure has other bytes each time.
    with matplotlib.rc_context({"svg.hashsalt": "med42", "font.size": 9, "svg.fonttype": "none"}):
        drawing = Figure(figsize=(6.4, 2.9), layout="tight")
        FigureCanvasSVG(drawing)
        axes = drawing.add_subplot()
        for name, (xs, ys) in series.items():
            axes.plot(xs, ys, label=name, marker="o" if places else None, linewidth=1.6, markersize=4)
        if places:
            axes.set_xticks(range(len(places)), places)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        text = io.StringIO()
        drawing.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
