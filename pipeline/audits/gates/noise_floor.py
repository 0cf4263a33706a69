"""How much the figures of runs of an unchanged model vary: the smallest rise a gate could see."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.audits.config import FigureName, MeasureNoiseConfig
from pipeline.audits.figures.keys import problems_of_keys, stream
from pipeline.audits.figures.nights import SAME_PAIRS, measure_night
from pipeline.audits.figures.tables import open_database
from pipeline.audits.gates.noise import Noise, learn_noise
from pipeline.audits.gates.noise_gates import describe_states
from pipeline.audits.numbers import show_number
from pipeline.audits.records import Key, label_of
from pipeline.runs.errors import ContractError
from pipeline.runs.finished import FinishedRun, find_runs, is_run, open_run

MIN_RUNS = 2


class Floor(NamedTuple):
    """How one figure of one group varies between runs."""

    group: Key
    name: FigureName
    noise: Noise

    @property
    def smallest_rise(self) -> float:
        """The bound that a gate would learn from these runs."""
        return self.noise.margin(self.noise.states[-1])


def open_reruns(uris: Sequence[str], group_by: Sequence[str]) -> list[FinishedRun]:
    """Open runs, and all runs of folders, that repeat one run with an unchanged model.

    Raises:
        ContractError: a run cannot be opened, there are fewer than two, or two differ in their
            model or settings.
    """
    runs, problems = [], []
    for uri in uris:
        try:
            runs += [open_run(uri)] if is_run(uri) else find_runs(uri)[0]
        except ContractError as error:
            problems += [f"scores.uris: {problem}" for problem in error.problems]
    if not problems and len({run.folder.uri for run in runs}) < MIN_RUNS:
        problems.append(f"scores.uris: expected at least {MIN_RUNS} different runs of an unchanged "
                        f"model, got {len({run.folder.uri for run in runs})}")  # fmt: skip
    for run in runs[1:]:
        for what, mine, first in (
            ("the model", run.model_digest[:16], runs[0].model_digest[:16]),
            ("the image settings, precision and version", *_settings_of(run, runs[0])),
        ):
            if mine != first:
                problems.append(f"scores.uris: expected {what} of {runs[0].uri}, {first}, got "
                                f"{mine} at {run.uri}")  # fmt: skip
    problems += [p for run in runs for p in problems_of_keys("group_by", run, group_by)]
    if problems:
        raise ContractError(*problems)
    return list({run.folder.uri: run for run in runs}.values())


def _settings_of(*runs: FinishedRun) -> list[str]:
    return [run.record.fingerprints.get("scoring", "unknown")[:16] for run in runs]


def measure_floor(config: MeasureNoiseConfig, runs: Sequence[FinishedRun]) -> Iterator[Floor]:
    """Yield how each figure varies between runs, by column and group.

    Raises:
        ContractError: the runs are of different manifests.
    """
    names = [FigureName(column, figure) for column in config.columns for figure in config.figures]
    with open_database() as connection:
        connection.execute("CREATE TABLE run (pair_id VARCHAR)")
        connection.register("source", stream(runs[0], [runs[0].pair_id_column]))
        connection.execute("INSERT INTO run SELECT c0 FROM source")
        connection.unregister("source")
        nights = [measure_night(connection, run, names, config.group_by) for run in runs]
    for night, run in zip(nights, runs, strict=True):
        if not night.has_pairs_of(nights[0].rows):
            raise ContractError(
                f"scores.uris: expected runs that share at least {SAME_PAIRS:.0%} of their pairs, "
                f"got {night.shared} of {max(night.rows, nights[0].rows)} in both {runs[0].uri} "
                f"and {run.uri}"
            )
    places = dict.fromkeys(place for night in nights for place in night.figures)
    for group, name in sorted(places, key=_order):
        found = [(night.name, night.figures[group, name]) for night in nights
                 if math.isfinite(night.figures.get((group, name), math.inf))]  # fmt: skip
        if len(found) >= MIN_RUNS:
            names_of, values = zip(*found, strict=True)
            yield Floor(group, name, learn_noise(names_of, values, config.false_alarm_rate))


def _order(place: tuple[Key, FigureName]) -> tuple[object, ...]:
    """Put all rows first, and null after other groups; keep the order of the settings within."""
    return tuple((value is None, value or "") for value in place[0]), str(place[1].column)


def describe_floor(floor: Floor) -> str:
    """Return a line for people."""
    noise, rise, centre = floor.noise, floor.smallest_rise, floor.noise.states[-1].centre
    percent = [f"{show_number(x, 2)}{_of(x, centre)}" for x in (noise.spread, rise)]
    text = (f"{label_of(floor.group)}: {floor.name.figure} of {floor.name.column}: "
            f"{describe_states(noise)}, standard deviation {percent[0]}, smallest rise {percent[1]}"
            )  # fmt: skip
    left_out = f"; left out as far from all others: {', '.join(noise.left_out)}"
    return text + (left_out if noise.left_out else "")


def _of(part: float, whole: float) -> str:
    return f" ({show_number(100 * part / abs(whole), 2)} %)" if whole else ""
