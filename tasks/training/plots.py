"""Plots of an evaluation, as PNG bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from mdmf_core.training.evaluation import Figure

_BLUE, _GREY = "#2563a8", "#888888"


def table_plot(tables: Mapping[str, Sequence[Figure]]) -> bytes:
    """AUROC per generator with its interval, one panel for each table of the scorer itself."""
    shown = [(name, figures) for name, figures in tables.items() if name.startswith("mdmf:")]
    height = 1.2 + 0.32 * sum(len(figures) + 2 for _, figures in shown)
    canvas = Canvas(figsize=(8, height), layout="constrained")
    ratios = [len(figures) + 1 for _, figures in shown]
    axes = canvas.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
    for axis, (name, figures) in zip(axes, shown, strict=True):
        for at, figure in enumerate(reversed(figures)):
            axis.plot([figure.low, figure.high], [at, at], color=_BLUE, linewidth=2)
            axis.plot([figure.auroc], [at], "o", color=_BLUE)
        axis.set_yticks(range(len(figures)), [f"{f.name} ({f.generated})" for f in reversed(figures)])
        axis.axvline(0.5, color=_GREY, linestyle="--", linewidth=1)
        axis.set_xlim(0, 1)
        axis.set_xlabel("AUROC, 95 % interval; dashed: chance")
        axis.set_title(name.removeprefix("mdmf: "), loc="left")
    return _png(canvas)


def robustness_plot(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """AUROC under every perturbation."""
    canvas = Canvas(figsize=(8, 0.9 + 0.3 * len(rows)), layout="constrained")
    axis = canvas.subplots()
    axis.barh([row["condition"] for row in reversed(rows)], [row["auroc"] for row in reversed(rows)], color=_BLUE)
    axis.axvline(0.5, color=_GREY, linestyle="--", linewidth=1)
    axis.set_xlim(0, 1)
    axis.set_xlabel("AUROC over all generators; dashed: chance")
    return _png(canvas)


def _png(canvas: Canvas) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(canvas).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()
