"""The picture of an evaluation: scores against people's ratings."""

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from pipeline.learning.evaluation_tables import Array, Scores
from pipeline.learning.judged_sets import JudgedSet
from spips_core.learning.metrics import srcc

NUM_COLUMNS = 4


def draw_scores(scores_of: Scores, sets: Sequence[JudgedSet]) -> bytes:
    """Return a PNG: for each rated set and model, scores against DMOS."""
    rated = [item for item in sets if item.kind == "rated"]
    models = list(dict.fromkeys(model for model, _ in scores_of))
    num_columns = min(NUM_COLUMNS, len(models))
    num_lines = -(-len(models) // num_columns)
    figure, axes = plt.subplots(
        len(rated) * num_lines, num_columns,
        figsize=(3.2 * num_columns, 3 * len(rated) * num_lines),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for block, item in enumerate(rated):
        for number, model in enumerate(models):
            axis = axes[block * num_lines + number // num_columns][number % num_columns]
            _scatter(axis, model, item, scores_of[model, item.name][:, 0])
    handles, labels = axes[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _scatter(axis: Axes, model: str, item: JudgedSet, scores: Array) -> None:
    kinds, targets = np.asarray(item.examples.kinds), item.examples.targets
    axis.set_axis_on()
    for kind in sorted(set(kinds)):
        chosen = kinds == kind
        axis.scatter(scores[chosen], targets[chosen], s=5, label=kind or None)
    axis.set_title(f"{model}\nSRCC {srcc(scores, targets):.3f}", fontsize=9)
    axis.set_xlabel("score (lower is better)", fontsize=8)
    axis.set_ylabel(f"{item.name}: DMOS", fontsize=8)
    if scores.min() > 0:
        axis.set_xscale("log")
    axis.tick_params(labelsize=7)
