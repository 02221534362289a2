"""What does the decay of one heavy particle leave, without a collision around it?

The particle has spin 0 and is flat in mass, pT, pseudorapidity and azimuth; its two quarks have showers and hadrons. It takes a
third of a millisecond, and a tagger that learns from such particles cannot learn their mass. Pythia decays what stands in its
event record when its own processes are off; it offers no batches of these, so this is a loop.
"""

from functools import partial
from typing import Any

import numpy as np

from distjet.physics.kinematics import Floats, to_cartesian
from distjet.simulation.generator import Events, Record, Source, read_record
from distjet.simulation.samples import SampleConfig

MAX_ABS_ETA = 2.0
PARTICLE = 25
"The Higgs boson, whose mass and decays Pythia allows to be set."
AS_INPUT = 23
"Status of a particle that a hard process has made and that is to decay."


def gun(sample: SampleConfig, rng: np.random.Generator) -> Source:
    """Return what makes the events of a sample of resonance_gun."""
    return partial(_shoot, sample, rng)


def draw_particles(sample: SampleConfig, num_events: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw the four-vectors of the particles, shape (N, 4) in GeV, and their masses, shape (N,) in GeV."""
    assert sample.mass_gev is not None and sample.pthat_max_gev is not None, "checked by the configuration"  # noqa: PT018
    pt_gev = rng.uniform(sample.pthat_min_gev, sample.pthat_max_gev, num_events)
    eta = rng.uniform(-MAX_ABS_ETA, MAX_ABS_ETA, num_events)
    phi_rad = rng.uniform(-np.pi, np.pi, num_events)
    mass_gev = rng.uniform(*sample.mass_gev, num_events)
    return to_cartesian(pt_gev, eta, phi_rad, mass_gev), mass_gev


def _shoot(sample: SampleConfig, rng: np.random.Generator, pythia: Any, num_events: int) -> Events:
    p4, mass_gev = draw_particles(sample, num_events, rng)
    events, made = [], []
    for number, (particle, mass) in enumerate(zip(p4.tolist(), mass_gev.tolist(), strict=True)):
        pythia.event.reset()
        pythia.event.append(PARTICLE, AS_INPUT, 0, 0, *particle, mass)
        pythia.event[1].scale(mass)
        if pythia.next():
            events.append(_rows(pythia.event))
            made.append(number)
    record = _record(events)
    return read_record(pythia, record, np.hypot(*p4[made, :2].T), np.ones(len(made)))


def _rows(event: Any) -> list[tuple[float, ...]]:
    return [(p.id(), p.status(), p.mother1(), p.px(), p.py(), p.pz(), p.e()) for p in event]


def _record(events: list[list[tuple[float, ...]]]) -> Record:
    rows = np.array([row for event in events for row in event]).reshape(-1, 7)
    offsets = np.cumsum([0, *map(len, events)])
    pdg, status, mother = rows[:, :3].astype(np.int64).T
    return Record(pdg, status, mother, tuple(rows[:, 3:].T), offsets)
