"""Gates whose bound is the noise of earlier nights."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from pipeline.audits.config import MIN_NIGHTS, AuditScoresConfig, GateConfig
from pipeline.audits.figures.nights import Night, choose_nights
from pipeline.audits.figures.tables import ScoreTables
from pipeline.audits.gates.noise import Noise, learn_noise
from pipeline.audits.records import NOTHING_BEFORE, GateVerdict, Key, label_of
from pipeline.runs.finished import FinishedRun
from pipeline.runs.summary import counted

MAX_NOTES = 5
"""Gates with two states that notes name."""


class Verdict(Protocol):
    """Makes a gate's verdict of what is not known before it is judged."""

    def __call__(  # noqa: D102
        self, *, state: str, reason: str, bound: float, value: float | None = None,
        margin: float | None = None, noise: Noise | None = None,
    ) -> GateVerdict: ...  # fmt: skip


class History(NamedTuple):
    """What earlier nights tell the gates.

    Attributes:
        nights: good nights, oldest first.
        rate: share of nights of an unchanged model in which a gate may break, 0 to 1.
        accepted: names of nights that make a state of their own.
    """

    nights: Sequence[Night] = ()
    rate: float = 0.05
    accepted: Collection[str] = ()


NO_HISTORY = History()


def read_history(
    config: AuditScoresConfig, tables: ScoreTables, nights: Sequence[FinishedRun], num_rows: int
) -> tuple[History, list[str]]:
    """Read what the gates of noise need of earlier nights, and return it with notes for people.

    Args:
        config: settings of the audit.
        tables: of the audited run.
        nights: good nights before it, oldest first.
        num_rows: its rows.
    """
    names = {gate.figure_name for gate in config.gates if gate.is_noise}
    if not names:
        return NO_HISTORY, []
    chosen, notes = choose_nights(tables.measure_nights(nights, sorted(names, key=str)), num_rows)
    return History(chosen, config.noise.false_alarm_rate, config.baseline.accept), notes


def hold_against_nights(
    verdict: Verdict, gate: GateConfig, group: Key, figure: tuple[float, float], history: History
) -> GateVerdict:
    """Compare tonight's figure with that of earlier nights.

    Args:
        verdict: makes the verdict.
        gate: the gate.
        group: whose figure it is.
        figure: its value, and the smallest step by which it can change.
        history: the earlier nights; its rate is that of this gate in this group.
    """
    value, step = figure
    place = group, gate.figure_name
    found = [(night.name, night.figures[place]) for night in history.nights
             if math.isfinite(night.figures.get(place, math.nan))]  # fmt: skip
    fixed = gate.bound[1]
    if not found:
        return verdict(state="not judged", reason=NOTHING_BEFORE, bound=fixed)
    names, values = zip(*found, strict=True)
    noise = None
    if len(found) < MIN_NIGHTS:
        centre, bound = sum(values) / len(values), fixed
        reason = (f"the fixed bound holds, against the mean of {counted(len(found), 'night')}: the "
                  f"noise needs {MIN_NIGHTS}")  # fmt: skip
    else:
        noise = learn_noise(names, values, history.rate, history.accepted)
        state = noise.nearest(value, falls=gate.falls)
        centre, bound = state.centre, _round_up(max(noise.margin(state), step))
        reason = describe_noise(noise, centre)
    change = centre - value if gate.falls else value - centre
    margin = bound - change
    return verdict(
        state="kept" if margin >= 0 else "broken", reason=reason, bound=bound, value=change,
        margin=margin, noise=noise,
    )  # fmt: skip


def _round_up(bound: float) -> float:
    """Return a bound with four digits, as people see it."""
    rounded = float(f"{bound:.4g}")
    return rounded if rounded >= bound else float(f"{1.0005 * bound:.4g}")


def describe_noise(noise: Noise, centre: float | None = None) -> str:
    """Return in words how noise was learned, and which of two states a figure is compared with."""
    text = (f"learned from {counted(len(noise.nights), 'night')}, {noise.nights[0]} to "
            f"{noise.nights[-1]}, for {100 * noise.rate:.2g} % false alarms: "
            f"{describe_states(noise)}, standard deviation {noise.spread:.2g}")  # fmt: skip
    if len(noise.states) > 1 and centre is not None:
        text += f"; compared with {centre:.4g}"
    if noise.left_out:
        text += f"; left out as far from all others: {', '.join(noise.left_out)}"
    return text


def describe_states(noise: Noise) -> str:
    """Return the level of a figure in words, or both levels."""
    if len(noise.states) == 1:
        return f"mean {noise.states[0].centre:.4g}"
    return "two states, " + " and ".join(
        f"{state.centre:.4g} ({counted(len(state.nights), 'night')})" for state in noise.states
    )


def note_two_states(gates: Sequence[GateVerdict]) -> list[str]:
    """Return notes for people on figures that have two states among good nights."""
    found = [(gate, gate.noise) for gate in gates if gate.noise and len(gate.noise.states) > 1]
    notes = [
        f"{label_of(gate.group)}: {gate.figure} of {gate.column or 'all rows'} has "
        f"{describe_states(noise)}; either is accepted"
        for gate, noise in found[:MAX_NOTES]
    ]
    more = len(found) - MAX_NOTES
    return [*notes, f"{counted(more, 'more figure')} of groups with two states"][
        : None if more > 0 else len(notes)
    ]
