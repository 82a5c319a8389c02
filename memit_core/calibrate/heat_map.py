"""The picture of a causal trace: effect by layer and position."""

from __future__ import annotations

import math
from pathlib import Path

from memit_core.calibrate.causal_trace import KINDS, PLACES, Trace
from memit_core.eval.chart import new_figure

TITLES = {"state": "one state put back", "mlp": "MLP outputs of some blocks put back"}
PERCENT = 100


def draw_heat_map(file: Path, name: str, trace: Trace, layers: tuple[int, ...] = ()) -> None:
    """Write a PNG of both kinds of effects, in percentage points of the answer's probability.

    Args:
        layers: those that are edited, which get a mark.

    Raises:
        MissingExtra: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure = new_figure(2.6 + 0.42 * len(trace.layers), 6.0)
    panels = figure.subplots(len(KINDS), 1, sharex=True)
    for axes, kind in zip(panels, KINDS, strict=True):
        values = [
            [math.nan if v is None else PERCENT * v for v in row] for row in trace.effects[kind]
        ]
        image = axes.imshow(values, aspect="auto", cmap="Purples", vmin=0)
        axes.set_yticks(range(len(PLACES)), PLACES)
        axes.set_title(TITLES[kind], fontsize=10)
        figure.colorbar(image, ax=axes, label="points", shrink=0.9)
        for layer in layers:
            place = min(range(len(trace.layers)), key=lambda i: abs(trace.layers[i] - layer))
            axes.axvspan(place - 0.5, place + 0.5, fill=False, edgecolor="#c2410c", linewidth=1.5)
    panels[-1].set_xticks(range(len(trace.layers)), [str(layer) for layer in trace.layers])
    panels[-1].set_xlabel("layer" + (", those edited framed" if layers else ""))
    figure.suptitle(
        f"{name}: what brings a blurred subject's fact back\n"
        f"mean of {trace.facts} facts: p {PERCENT * trace.clean:.0f}% clean, "
        f"{PERCENT * trace.corrupted:.0f}% blurred",
        fontsize=11,
    )
    figure.savefig(file, format="png")
