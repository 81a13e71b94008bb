"""Line plots as SVG text, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, marks: bool = False) -> str:
    """Draw named series of (xs, ys) into one SVG element.

    Args:
        series: points by legend name.
        x: axis label.
        y: axis label.
        marks: put a dot at each point.
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
            axes.plot(xs, ys, label=name, marker="o" if marks else None, linewidth=1.6, markersize=4)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(frameon=False)
        text = io.StringIO()
        drawing.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL)
