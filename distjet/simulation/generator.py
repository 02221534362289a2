"""Which particles leave the collision?

Pythia 8 through `nextBatch`, which hands over arrays (five times faster than a loop over particles). Only what later steps need
is kept: stable particles, and the outgoing partons of the hard process for the flavour of a jet. K-short and hyperons count as
stable (lifetime limit 10 mm), as at an experiment. A sample's cross-section is measured apart, at the parton level and with
many trials, because the few hundred events of one file know it to a few percent only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distjet.errors import MissingExtraError, UserError
from distjet.physics.kinematics import Floats
from distjet.simulation.samples import GeneratorConfig, SampleConfig, entropy

Integers = NDArray[np.integer]

MILLIBARN_IN_PICOBARN = 1e9

NUM_PYTHIA_SEEDS = 900_000_000
"Pythia takes seeds from 1 to this."

BATCH_EVENTS = 100
"Events in memory at a time; the order of random numbers depends on it, so it is a constant."

COMMON_SETTINGS = (
    "Print:quiet = on",
    "Check:event = off",  # a debugging aid of Pythia, a tenth of its time
    "Random:setSeed = on",
    "ParticleDecays:limitTau0 = on",
    "ParticleDecays:tau0Max = 10",
)
W_TO_QUARKS = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")
PROCESSES = {
    "dijet": ("HardQCD:all = on",),
    "ttbar": ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *W_TO_QUARKS),
    "w_jet": ("WeakBosonAndParton:qqbar2Wg = on", "WeakBosonAndParton:qg2Wq = on", *W_TO_QUARKS),
    "z_jet": (
        "WeakBosonAndParton:qqbar2gmZg = on",
        "WeakBosonAndParton:qg2gmZq = on",
        "WeakZ0:gmZmode = 2",  # no virtual photon
        "23:onMode = off",
        "23:onIfAny = 1 2 3 4 5",
    ),
    "h_jet": (
        "HiggsSM:gg2Hg(l:t) = on",
        "HiggsSM:qg2Hq(l:t) = on",
        "HiggsSM:qqbar2Hg(l:t) = on",
        "25:onMode = off",
        "25:onIfAny = 4 5",
    ),
    "inelastic": ("SoftQCD:inelastic = on",),
    "non_diffractive": ("SoftQCD:nonDiffractive = on",),
}
SHOWERS: dict[str, tuple[str, ...]] = {
    "simple": (),
    "vincia": ("PartonShowers:model = 2", "Print:verbosity = 1"),  # its page of settings ignores Print:quiet
}


@dataclass(frozen=True)
class Particles:
    """Particles of a batch of events; event e holds rows offsets[e]:offsets[e + 1].

    Attributes:
        p4: Four-vectors (px, py, pz, E) in GeV, shape (P, 4).
        pdg: Particle identities in the PDG's numbering, shape (P,).
        charge: Charge in units of the positron's, shape (P,).
        offsets: Shape (number of events + 1,).
    """

    p4: Floats
    pdg: Integers
    charge: Floats
    offsets: NDArray[np.int64]

    @property
    def num_events(self) -> int:
        """Number of events."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Events:
    """A batch of generated events: stable particles, hard partons, pT-hat in GeV and generator weight of each event."""

    particles: Particles
    partons: Particles
    pthat_gev: Floats
    weight: Floats


def process_settings(sample: SampleConfig, config: GeneratorConfig) -> tuple[str, ...]:
    """Return the Pythia settings of a sample: its process, its range of pT-hat, its shower, and what the user adds."""
    upper = -1.0 if sample.pthat_max_gev is None else sample.pthat_max_gev
    bounds = (f"PhaseSpace:pTHatMin = {sample.pthat_min_gev}", f"PhaseSpace:pTHatMax = {upper}")
    return (*PROCESSES[sample.process], *bounds, *SHOWERS[sample.shower], *config.extra_settings)


def pythia_seed(seed: int, stream: str, index: int = 0) -> int:
    """Derive a seed in Pythia's range 1..900000000 for one stream of events.

    The files of a stream (a sample) have consecutive seeds, the first of which the run's seed and the stream's name decide: no
    two of them can be equal, as hashes would be now and then, and a sample's events do not depend on the other samples.
    Pythia's generator has another sequence for each seed, near or far.
    """
    first = int(np.random.SeedSequence(entropy(seed, stream)).generate_state(1)[0])
    return (first + index) % NUM_PYTHIA_SEEDS + 1


def start_pythia(settings: tuple[str, ...], ecm_gev: float, seed: int) -> Any:
    """Initialise Pythia.

    Args:
        settings: Lines for `readString` beyond the common ones.
        ecm_gev: Centre-of-mass energy in GeV.
        seed: From 1 to 900000000.

    Raises:
        MissingExtraError: If Pythia is not installed.
        UserError: If it rejects a setting or the combination of all.
    """
    pythia = _pythia_module().Pythia("", False)
    for setting in (*COMMON_SETTINGS, f"Beams:eCM = {ecm_gev}", f"Random:seed = {seed}", *settings):
        if not pythia.readString(setting):
            raise UserError(f"Pythia does not know the setting {setting!r}; check generator.extra_settings")
    if not pythia.init():
        raise UserError(f"Pythia cannot start with {list(settings)}; is the range of pT-hat possible?")
    return pythia


def generate(pythia: Any, num_events: int) -> Iterator[Events]:
    """Generate events in batches, `num_events` in total."""
    remaining = num_events
    while remaining > 0:
        events = _next_batch(pythia, min(remaining, BATCH_EVENTS))
        if events.particles.num_events == 0:
            raise UserError(f"Pythia failed in all of {BATCH_EVENTS} events; check the range of pT-hat and extra_settings")
        remaining -= events.particles.num_events
        yield events


def cross_section_pb(sample: SampleConfig, config: GeneratorConfig, seed: int) -> float:
    """Measure a sample's cross-section in pb, without showers and hadrons."""
    pythia = start_pythia((*process_settings(sample, config), "PartonLevel:all = off"), config.ecm_gev, seed)
    pythia.nextBatch(config.cross_section_trials)
    return float(pythia.infoPython().sigmaGen()) * MILLIBARN_IN_PICOBARN


def charges(pythia: Any, pdg: Integers) -> Floats:
    """Look up the charges of particles by identity, from Pythia's own table."""
    kinds, positions = np.unique(pdg, return_inverse=True)
    return np.array([pythia.particleData.charge(int(kind)) for kind in kinds], np.float64)[positions]


def _next_batch(pythia: Any, num_events: int) -> Events:
    import awkward as ak

    batch = pythia.nextBatch(num_events)
    status = batch.prt.status
    outgoing = (abs(status) == 23) & ((abs(batch.prt.id) <= 5) | (batch.prt.id == 21))
    weights = ak.to_numpy(batch.info.weights[:, 0]).astype(np.float64)
    pthat_gev = np.sqrt(ak.to_numpy(batch.info.pT2Hat))
    return Events(_select(pythia, batch.prt, status > 0), _select(pythia, batch.prt, outgoing), pthat_gev, weights)


def _select(pythia: Any, particles: Any, mask: Any) -> Particles:
    import awkward as ak

    offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.sum(mask, axis=1)))]).astype(np.int64)
    flat_mask = ak.to_numpy(ak.flatten(mask))
    pdg = ak.to_numpy(ak.flatten(particles.id))[flat_mask]
    components = [ak.to_numpy(ak.flatten(particles.p[name]))[flat_mask] for name in ("px", "py", "pz", "e")]
    return Particles(np.stack(components, axis=1), pdg, charges(pythia, pdg), offsets)


def _pythia_module() -> ModuleType:
    try:
        import pythia8mc
    except ModuleNotFoundError as error:
        raise MissingExtraError("simulation needs Pythia 8", "simulation") from error
    return pythia8mc
