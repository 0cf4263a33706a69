"""Score judged data sets with every model and peer, and make the tables."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from pipeline.learning.config import EvaluateConfig, JudgedModelConfig
from pipeline.learning.judged_sets import JudgedSet, open_sets
from pipeline.runs.errors import ContractError
from pipeline.runs.storage import STORE_ERRORS, check_writable, open_store, write_whole
from pipeline.runs.storage import describe as describe_error
from pipeline.scoring.score import PRECISIONS
from spips_core.config import STREAMS
from spips_core.errors import CheckpointError, PeerError, SpipsError
from spips_core.learning.embedding import Quality, embed
from spips_core.learning.evaluate import FIGURES, MAIN_FIGURE, agreements
from spips_core.learning.metrics import rising_share, srcc
from spips_core.learning.peers import PEERS, Metric, load_peer
from spips_core.learning.train import fold_of
from spips_core.model import SPIPS

TABLE_SCHEMA = pa.schema(
    [
        ("model", pa.string()), ("set", pa.string()), ("kind", pa.string()),
        ("subset", pa.string()), ("figure", pa.string()), ("value", pa.float64()),
        ("low", pa.float64()), ("high", pa.float64()), ("num_examples", pa.int64()),
        ("note", pa.string()),
    ]
)  # fmt: skip
"""One row a model, set, subset ("" is all of it) and figure; value is null when there is a note."""

Array = NDArray[np.float64]
Report = Callable[[str], None]


@dataclass(frozen=True)
class JudgedModel:
    """A model with one set of weights for each fold of the references."""

    name: str
    folds: list[SPIPS]


def evaluate(config: EvaluateConfig, report: Report) -> str:
    """Judge every model and peer on every set, write the tables, and return the Markdown.

    Args:
        config: the job's.
        report: called with a line of progress.

    Raises:
        ContractError: a data set, checkpoint or peer's name is wrong; all are listed.
        DatasetError: an image cannot be read.
    """
    sets, models, peers, notes = _open(config)
    rows: list[dict[str, Any]] = []
    scores_of: dict[tuple[str, str], Array] = {}
    for item in sets:
        for name, scores in _scores(config, item, models, peers, report):
            if isinstance(scores, str):  # why there are none
                rows.append(_row(name, item, "", MAIN_FIGURE[item.kind], None, note=scores))
                continue
            scores_of[name, item.name] = scores
            rows += _judge(name, item, scores, config.output.bootstrap_samples)
        rows += [
            _row(name, item, "", MAIN_FIGURE[item.kind], None, note=note) for name, note in notes
        ]
    table = pa.Table.from_pylist(rows, schema=TABLE_SCHEMA)
    markdown = describe(table, sets)
    fs, folder = open_store(config.output.uri)
    buffers = {name: io.BytesIO() for name in ("evaluation.parquet", "scores.parquet")}
    pq.write_table(table, buffers["evaluation.parquet"])
    pq.write_table(_score_table(scores_of, sets), buffers["scores.parquet"])
    for name, buffer in buffers.items():
        write_whole(fs, f"{folder}/{name}", buffer.getvalue())
    write_whole(fs, f"{folder}/evaluation.md", markdown.encode())
    if any(item.kind == "rated" for item in sets):
        write_whole(fs, f"{folder}/evaluation.png", draw(scores_of, sets))
    return markdown


def _open(
    config: EvaluateConfig,
) -> tuple[list[JudgedSet], list[JudgedModel], dict[str, Metric], list[tuple[str, str]]]:
    """Return data sets, models, the peers that can be had, and why others cannot."""
    sets: list[JudgedSet] = []
    problems = _problems_of_request(config)
    models, peers, notes = [], {}, []
    try:
        sets = open_sets(config.data)
    except ContractError as error:
        problems += error.problems
    for chosen in config.models:
        try:
            models.append(_load(chosen))
        except SpipsError as error:
            problems.append(f"models {chosen.name}: {error}")
    trunks = {
        "alexnet": config.peers.alexnet_weights,
        "squeezenet1_1": config.peers.squeezenet1_1_weights,
    }
    for name in config.peers.names:
        if name not in PEERS:
            problems.append(f"peers.names: expected some of {PEERS}, got {name}")
            continue
        try:
            peers[name] = load_peer(name, trunk_weights=trunks)
        except PeerError as error:
            notes.append((name, str(error)))
        except SpipsError as error:
            problems.append(f"peers {name}: {error}")
    if problems:
        raise ContractError(*problems)
    return sets, models, peers, notes


def _problems_of_request(config: EvaluateConfig) -> list[str]:
    names = [*(chosen.name for chosen in config.models), *config.peers.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = [f"models, peers: expected different names, got {name} twice" for name in twice]
    if not names:
        problems.append("models, peers: expected at least one, got none")
    try:
        check_writable(config.output.uri)
    except STORE_ERRORS as error:
        problems.append(f"output.uri: {describe_error(error)}")
    return problems


def _load(chosen: JudgedModelConfig) -> JudgedModel:
    paths = [chosen.checkpoint]
    if "{fold}" in chosen.checkpoint:
        paths = [chosen.checkpoint.replace("{fold}", str(k)) for k in range(chosen.num_folds)]
    folds = [
        SPIPS.load(
            path,
            backbone_weights=chosen.backbone_weights,
            precision=PRECISIONS[chosen.precision],
        )
        for path in paths
    ]
    for number, model in enumerate(folds):
        expected = f"{number} of {len(folds)}"
        held_out = model.training_record.get("held_out_fold", "none")
        if len(folds) > 1 and held_out != expected:
            raise CheckpointError(
                f"{paths[number]}: expected a model with held-out fold {expected}, got {held_out}"
            )
    return JudgedModel(chosen.name, folds)


def _scores(
    config: EvaluateConfig,
    item: JudgedSet,
    models: Sequence[JudgedModel],
    peers: dict[str, Metric],
    report: Report,
) -> Iterator[tuple[str, Array | str]]:
    """Yield each model's scores of a set, (N, K), lower is better, or why it has none."""
    cache = Path(config.data.cache) if config.data.cache else None
    for model in models:
        report(f"{item.name}: {model.name}")
        yield model.name, spips_scores(model, item, cache, report)
    for name, metric in peers.items():
        report(f"{item.name}: {name}")
        try:
            yield name, _peer_scores(metric, item)
        except PeerError as error:
            yield name, str(error)


def _peer_scores(metric: Metric, item: JudgedSet) -> Array:
    parts = []
    for index in range(len(item.examples)):
        example = item.examples[index]
        references = example.reference[None].expand_as(example.distorted)
        parts.append(metric(references, example.distorted))
    return torch.stack(parts).double().numpy()


def spips_scores(model: JudgedModel, item: JudgedSet, cache: Path | None, report: Report) -> Array:
    """Return a model's scores of a set, each reference's from the fold that has not seen it.

    Args:
        model: of one checkpoint, or of one for each fold.
        item: the data set.
        cache: folder that keeps what a trunk makes of a set, or None.
        report: called with a line of progress.

    Returns:
        (N, K), lower is better.
    """
    fold = _fold_of_examples(model, item)
    scores = np.empty((len(fold), 0))
    # With weights >= 0, scores follow from the maps' means, which folds of one trunk share.
    for digest in dict.fromkeys(trained.trunk.digest() for trained in model.folds):
        sharing = [n for n, one in enumerate(model.folds) if one.trunk.digest() == digest]
        indices = np.flatnonzero(np.isin(fold, sharing))
        if len(indices) == 0:
            continue
        quality = _embed(model.folds[sharing[0]], item, indices.tolist(), cache, report)
        for number in sharing:
            trained = model.folds[number]
            means = {n: [q.flatten(0, 1) for q in quality[n]] for n in trained.config.streams}
            with torch.no_grad():
                values = trained.fuse(trained.stream_means(means)).double().numpy()
            values = values.reshape(len(indices), -1)
            scores = scores if scores.size else np.empty((len(fold), values.shape[1]))
            chosen = fold[indices] == number
            scores[indices[chosen]] = values[chosen]
    return scores


def _fold_of_examples(model: JudgedModel, item: JudgedSet) -> NDArray[np.intp]:
    """Return which fold's model judges each example: one that has not learned from its reference.

    Each checkpoint names its held-out rated references. All other references are unseen by all.
    """
    fold = fold_of(item.examples.references, len(model.folds))
    for number, trained in enumerate(model.folds):
        held_out = set(json.loads(trained.training_record.get("held_out_references", "[]")))
        fold[[name in held_out for name in item.examples.references]] = number
    return fold


def _embed(
    model: SPIPS, item: JudgedSet, indices: Sequence[int], cache: Path | None, report: Report
) -> Quality:
    embedder = SPIPS(replace(model.config, streams=STREAMS)).eval()
    embedder.trunk.load_state_dict(model.trunk.state_dict())
    embedder.trunk.features.to(next(model.trunk.features.parameters()).dtype)

    def progress(done: int, total: int) -> None:
        if done % max(1, total // 4) == 0 and done < total:
            report(f"{item.name}: {done} of {total}")

    return embed(embedder, item.examples, indices, cache=cache, report=progress)


def _judge(name: str, item: JudgedSet, scores: Array, num_samples: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each figure, of the whole set and of each kind of distortion in it."""
    targets, references = item.examples.targets, item.examples.references
    for figure in agreements(item.kind, scores, targets, references, num_samples=num_samples):
        yield _row(
            name, item, "", figure.figure, figure.value,
            low=figure.low, high=figure.high, num_examples=figure.num_examples,
        )  # fmt: skip
    kinds = np.asarray(item.examples.kinds)
    for kind in sorted(set(kinds) - {""}):
        chosen = kinds == kind
        if item.kind == "rated":
            value = srcc(scores[chosen, 0], targets[chosen])
        else:
            value = rising_share(scores[chosen])
        yield _row(
            name, item, str(kind), MAIN_FIGURE[item.kind], value, num_examples=int(chosen.sum())
        )


def _row(
    name: str, item: JudgedSet, subset: str, figure: str, value: float | None, *, note: str = "",
    low: float | None = None, high: float | None = None, num_examples: int = 0,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model": name, "set": item.name, "kind": item.kind, "subset": subset, "figure": figure,
        "value": value, "low": low, "high": high, "num_examples": num_examples, "note": note,
    }  # fmt: skip


def describe(table: pa.Table, sets: Sequence[JudgedSet]) -> str:
    """Return the tables as Markdown: one for each set, and one for each set's subsets.

    Args:
        table: of `TABLE_SCHEMA`.
        sets: in the order to show.
    """
    rows = table.to_pylist()
    text = ["# Evaluation", "", "Higher is better in every column; in brackets the 95 % interval."]
    for item in sets:
        own = [row for row in rows if row["set"] == item.name]
        figures = list(FIGURES[item.kind])
        text += ["", f"## {item.name} ({item.kind}, {len(item.examples)} examples)", ""]
        text += _grid(own, figures, "figure", [row for row in own if not row["subset"]])
        subsets = sorted({row["subset"] for row in own} - {""})
        if subsets:
            text += ["", f"{MAIN_FIGURE[item.kind]} of each kind of distortion:", ""]
            models = list(dict.fromkeys(row["model"] for row in own if not row["note"]))
            text += ["| | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
            value = {(row["subset"], row["model"]): row["value"] for row in own if row["subset"]}
            for subset in subsets:
                cells = [_number(value[subset, model]) for model in models]
                text.append(f"| {subset} | " + " | ".join(cells) + " |")
    notes = dict.fromkeys((row["model"], row["note"]) for row in rows if row["note"])
    text += ["", *(f"- {model} could not be measured: {note}" for model, note in notes)]
    return "\n".join(text).rstrip() + "\n"


def _grid(
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str],
    key: str,
    shown: Sequence[dict[str, Any]],
) -> list[str]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    cell = {(row["model"], row[key]): row for row in shown}
    lines = ["| model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for model in models:
        cells = []
        for column in columns:
            row = cell.get((model, column), {"value": None, "low": None, "high": None})
            interval = ""
            if row["low"] is not None and np.isfinite([row["value"], row["low"]]).all():
                interval = f" ({_number(row['low'])} to {_number(row['high'])})"
            cells.append(_number(row["value"]) + interval)
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.4f}".replace("0.", ".", 1)


def _score_table(scores_of: dict[tuple[str, str], Array], sets: Sequence[JudgedSet]) -> pa.Table:
    """Return every score: one row a model and example."""
    by_name = {item.name: item for item in sets}
    parts = []
    for (model, name), scores in scores_of.items():
        item = by_name[name]
        parts.append(
            pa.table(
                {
                    "model": [model] * len(scores),
                    "set": [name] * len(scores),
                    "reference": [Path(r).name for r in item.examples.references],
                    "distortion": item.examples.kinds,
                    "target": item.examples.targets,
                    "scores": pa.array(scores.tolist(), pa.list_(pa.float64())),
                }
            )
        )
    return pa.concat_tables(parts)


def draw(scores_of: dict[tuple[str, str], Array], sets: Sequence[JudgedSet]) -> bytes:
    """Return a PNG: for each rated set and model, scores against people's ratings.

    Args:
        scores_of: (N, 1) by model and set.
        sets: the data sets.
    """
    rated = [item for item in sets if item.kind == "rated"]
    models = list(dict.fromkeys(model for model, _ in scores_of))
    columns = min(4, len(models))
    lines = -(-len(models) // columns)
    figure, axes = plt.subplots(
        len(rated) * lines, columns, figsize=(3.2 * columns, 3 * len(rated) * lines),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for block, item in enumerate(rated):
        kinds = np.asarray(item.examples.kinds)
        for number, model in enumerate(models):
            axis = axes[block * lines + number // columns][number % columns]
            axis.set_axis_on()
            scores = scores_of[model, item.name][:, 0]
            for kind in sorted(set(kinds)):
                chosen = kinds == kind
                axis.scatter(scores[chosen], item.examples.targets[chosen], s=5, label=kind or None)
            agreement = srcc(scores, item.examples.targets)
            axis.set_title(f"{model}\nSRCC {agreement:.3f}", fontsize=9)
            axis.set_xlabel("score (lower is better)", fontsize=8)
            axis.set_ylabel(f"{item.name}: DMOS", fontsize=8)
            if scores.min() > 0:
                axis.set_xscale("log")
            axis.tick_params(labelsize=7)
    handles, labels = axes[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
