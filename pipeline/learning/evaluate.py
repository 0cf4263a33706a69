"""Score judged data sets with SPIPS checkpoints and peers, and write how well they agree."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from pipeline.learning.config import EvaluateConfig, JudgedModelConfig
from pipeline.learning.evaluation_plots import draw_scores
from pipeline.learning.evaluation_tables import (
    Array,
    FigureRow,
    Scores,
    describe,
    figure_rows,
    figure_table,
    note_row,
    score_table,
)
from pipeline.learning.judged_sets import JudgedSet, open_sets
from pipeline.runs.errors import ContractError, raise_problems
from pipeline.runs.storage import STORE_ERRORS, check_writable, open_store, write_whole
from pipeline.runs.storage import describe as describe_error
from pipeline.scoring.stages.model import PRECISIONS
from spips_core.errors import CheckpointError, FetchError, PeerError, SpipsError
from spips_core.learning.datasets import fold_of
from spips_core.learning.distortions import DISTORTIONS
from spips_core.learning.embedding import QualityMeans, embed, make_embedder
from spips_core.learning.peers import PEERS, Metric, load_peer
from spips_core.model import SPIPS

Report = Callable[[str], None]


@dataclass(frozen=True)
class JudgedModel:
    """A model in evaluation: one checkpoint, or one for each held-out fold."""

    name: str
    folds: list[SPIPS]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation compares; the notes say why a peer is not available, by its name."""

    sets: list[JudgedSet]
    models: list[JudgedModel]
    peers: dict[str, Metric]
    notes: dict[str, str]


def evaluate(config: EvaluateConfig, report: Report) -> str:
    """Judge every model and peer on every set, write the tables, and return the Markdown.

    Raises:
        ContractError: a data set, a checkpoint or a peer's name is wrong; lists every problem.
        FaultError: nothing is wrong, but torchvision cannot fetch the weights of a trunk.
        DatasetError: an image cannot be read.
    """
    evaluation = _open(config)
    rows: list[FigureRow] = []
    scores_of: Scores = {}
    for item in evaluation.sets:
        for name, scores in _scores(config, item, evaluation, report):
            if isinstance(scores, str):  # why there are none
                rows.append(note_row(name, item, scores))
                continue
            scores_of[name, item.name] = scores
            rows += figure_rows(name, item, scores, config.output.bootstrap_samples)
        rows += [note_row(name, item, note) for name, note in evaluation.notes.items()]
    markdown = describe(rows, evaluation.sets)
    contents = {
        "evaluation.parquet": _parquet(figure_table(rows)),
        "scores.parquet": _parquet(score_table(scores_of, evaluation.sets)),
        "evaluation.md": markdown.encode(),
    }
    if any(item.kind == "rated" for item in evaluation.sets):
        contents["evaluation.png"] = draw_scores(scores_of, evaluation.sets)
    fs, folder = open_store(config.output.uri)
    for name, content in contents.items():
        write_whole(fs, f"{folder}/{name}", content)
    return markdown


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _open(config: EvaluateConfig) -> Evaluation:
    """Open everything that the settings name, and raise once with every problem."""
    evaluation = Evaluation([], [], {}, {})
    peers = config.peers
    models = [each for one in config.models for each in _by_family(one)]
    problems = _problems_of_request(config, [chosen.name for chosen, _ in models])
    faults: list[str] = []
    try:
        evaluation.sets.extend(open_sets(config.data))
    except ContractError as error:
        problems += error.problems
    for chosen, family in models:
        try:
            evaluation.models.append(_load(chosen, family))
        except FetchError as error:
            faults.append(f"models {chosen.name}: {error}")
        except SpipsError as error:
            problems.append(f"models {chosen.name}: {error}")
    trunks = {"alexnet": peers.alexnet_weights, "squeezenet1_1": peers.squeezenet1_1_weights}
    for name in peers.names:
        if name not in PEERS:
            problems.append(f"peers.names: expected some of {PEERS}, got {name}")
            continue
        try:
            evaluation.peers[name] = load_peer(name, trunk_weights=trunks)
        except PeerError as error:
            evaluation.notes[name] = str(error)
        except SpipsError as error:
            problems.append(f"peers {name}: {error}")
    raise_problems(problems, faults)
    return evaluation


def _problems_of_request(config: EvaluateConfig, models: list[str]) -> list[str]:
    names = [*models, *config.peers.names]
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems = [f"models, peers: expected different names, got {name} twice" for name in repeated]
    if not names:
        problems.append("models, peers: expected at least one, got none")
    try:
        check_writable(config.output.uri)
    except STORE_ERRORS as error:
        problems.append(f"output.uri: {describe_error(error)}")
    return problems


def _by_family(chosen: JudgedModelConfig) -> Iterator[tuple[JudgedModelConfig, str | None]]:
    """Yield a model, or, where its path has {family}, one for each family that it left out."""
    if "{family}" not in chosen.checkpoint:
        yield chosen, None
        return
    for family in sorted({distortion.family for distortion in DISTORTIONS.values()}):
        path = chosen.checkpoint.replace("{family}", family)
        name = f"{chosen.name} without {family}"
        yield chosen.model_copy(update={"name": name, "checkpoint": path}), family


def _load(chosen: JudgedModelConfig, family: str | None) -> JudgedModel:
    weights, precision = chosen.backbone_weights, PRECISIONS[chosen.precision]
    folds = []
    for number in range(chosen.num_folds):
        path = chosen.checkpoint.replace("{fold}", str(number))
        model = SPIPS.load(path, backbone_weights=weights, precision=precision)
        fold = f"{number} of {chosen.num_folds}" if chosen.num_folds > 1 else None
        for what, expected in (("fold", fold), ("family", family)):
            held_out = model.training_record.get(f"held_out_{what}", "none")
            if expected not in (None, held_out):
                raise CheckpointError(
                    f"{path}: expected a model with held-out {what} {expected}, got {held_out}"
                )
        folds.append(model)
    return JudgedModel(chosen.name, folds)


def _scores(
    config: EvaluateConfig, item: JudgedSet, evaluation: Evaluation, report: Report
) -> Iterator[tuple[str, Array | str]]:
    """Yield each model's scores of a set, (N, K), lower is better, or why it has none."""
    cache = Path(config.data.cache) if config.data.cache else None
    for model in evaluation.models:
        report(f"{item.name}: {model.name}")
        yield model.name, spips_scores(model, item, cache, report)
    for name, metric in evaluation.peers.items():
        report(f"{item.name}: {name}")
        try:
            yield name, _peer_scores(metric, item)
        except PeerError as error:
            yield name, str(error)


def _peer_scores(metric: Metric, item: JudgedSet) -> Array:
    examples = (item.examples[index] for index in range(len(item.examples)))
    parts = [metric(e.reference[None].expand_as(e.distorted), e.distorted) for e in examples]
    return torch.stack(parts).double().numpy()


def spips_scores(model: JudgedModel, item: JudgedSet, cache: Path | None, report: Report) -> Array:
    """Return a model's scores of a set, (N, K), lower is better.

    The fold that held out a reference scores its examples. The cache keeps the embedded sets.
    """

    def progress(done: int, total: int) -> None:
        if done % max(1, total // 4) == 0 and done < total:
            report(f"{item.name}: {done} of {total}")

    fold = _fold_of_examples(model, item)
    by_index: dict[int, Array] = {}
    digests = [trained.trunk.digest() for trained in model.folds]
    # With weights >= 0 a score depends only on the quality means, which folds of one trunk share.
    for digest in dict.fromkeys(digests):
        sharing = [number for number, other in enumerate(digests) if other == digest]
        indices = np.flatnonzero(np.isin(fold, sharing))
        if len(indices) == 0:
            continue
        embedder = make_embedder(model.folds[sharing[0]])
        means = embed(embedder, item.examples, indices.tolist(), cache=cache, report=progress)
        for number in sharing:
            scores = _score_means(model.folds[number], means)
            is_own = fold[indices] == number
            by_index |= zip(indices[is_own].tolist(), scores[is_own], strict=True)
    return np.stack([by_index[index] for index in range(len(fold))])


@torch.no_grad()
def _score_means(model: SPIPS, means: QualityMeans) -> Array:
    """Return the scores, (N, K), of quality means, by stream tensors (N, K, C_l)."""
    num_examples = len(means[model.config.streams[0]][0])
    pairs = {name: [q.flatten(0, 1) for q in means[name]] for name in model.config.streams}
    return model.fuse(model.stream_means(pairs)).double().numpy().reshape(num_examples, -1)


def _fold_of_examples(model: JudgedModel, item: JudgedSet) -> NDArray[np.intp]:
    """Return the fold whose model judges each example: a model that held out its reference.

    Each checkpoint lists the rated references that it held out. No model has seen any other
    reference, so those are dealt out.
    """
    fold = fold_of(item.examples.references, len(model.folds))
    for number, trained in enumerate(model.folds):
        held_out = set(json.loads(trained.training_record.get("held_out_references", "[]")))
        fold[[name in held_out for name in item.examples.references]] = number
    return fold
