"""A picture of one measurement: bars before and after, with their 95% intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memit_core.eval.extras import need
from memit_core.eval.summary import SCORE, Summary

SHOWN = {
    SCORE: "Score",
    "efficacy": "efficacy",
    "paraphrase": "paraphrase",
    "neighborhood": "neighborhood",
    "generation_success": "greedy answer,\nown prompt",
    "ends_right": "ends right",
    "paraphrase_generation_success": "other words,\ngreedy",
    "chat": "chat",
    "reference_score": "reference\nscore",
}
COLOURS = {"before": "#9aa5b1", "after": "#1f6f8b"}
PERCENT = 100


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure that needs no display; sizes in inches.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = need("matplotlib.figure", "the chart").Figure(
        figsize=(width, height), dpi=150, layout="constrained"
    )
    need("matplotlib.backends.backend_agg", "the chart").FigureCanvasAgg(figure)
    return figure


def draw_chart(file: Path, title: str, before: Summary, after: Summary) -> None:
    """Write a PNG of all figures in percent that both summaries give.

    Raises:
        MissingExtra: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    shown = [n for n in SHOWN if before.values[n] is not None and after.values[n] is not None]
    figure = new_figure(1.6 * len(shown) + 2, 4.8)
    axes = figure.subplots()
    width = 0.38
    for shift, (when, summary) in zip(
        (-width / 2, width / 2), (("before", before), ("after", after)), strict=True
    ):
        _bars(axes, shown, summary, shift, width, when)
    axes.set_xticks(range(len(shown)), [SHOWN[name] for name in shown])
    axes.set_ylim(0, 118)  # room for the labels over the bars
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("percent, with 95% interval")
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.grid(True, color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1, 1.0))
    figure.savefig(file, format="png")


def _bars(
    axes: Any, names: list[str], summary: Summary, shift: float, width: float, when: str
) -> None:
    heights = [PERCENT * (summary.values[name] or 0) for name in names]
    errors = [PERCENT * (summary.ci95[name] or 0) for name in names]
    places = [i + shift for i in range(len(names))]
    axes.bar(
        places,
        heights,
        width,
        yerr=errors,
        label=when,
        color=COLOURS[when],
        error_kw={"ecolor": "#333333", "capsize": 3, "linewidth": 1},
    )
    for place, height, error in zip(places, heights, errors, strict=True):
        axes.annotate(
            f"{height:.1f}",
            (place, height + error),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
