"""Which particles leave the collision?

Pythia 8 through `nextBatch`, which hands over arrays (five times faster than a loop over particles). Only what later steps need
is kept: stable particles, and the outgoing partons of the hard process and of heavy particles' decays, for the flavour of a
jet. K-short and hyperons count as stable (lifetime limit 10 mm), as at an experiment. A sample's cross-section is measured
apart, at the parton level and with many trials, because the few hundred events of one file know it to a few percent only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

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
Z_WITHOUT_PHOTON = "WeakZ0:gmZmode = 2"
Z_TO_NEUTRINOS = (Z_WITHOUT_PHOTON, "23:onMode = off", "23:onIfAny = 12 14 16")
PROCESSES = {
    "dijet": ("HardQCD:all = on",),
    "ttbar": ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *W_TO_QUARKS),
    "w_jet": ("WeakBosonAndParton:qqbar2Wg = on", "WeakBosonAndParton:qg2Wq = on", *W_TO_QUARKS),
    "z_jet": (
        "WeakBosonAndParton:qqbar2gmZg = on",
        "WeakBosonAndParton:qg2gmZq = on",
        Z_WITHOUT_PHOTON,
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
    "z_quark": ("WeakBosonAndParton:qg2gmZq = on", *Z_TO_NEUTRINOS),
    "z_gluon": ("WeakBosonAndParton:qqbar2gmZg = on", *Z_TO_NEUTRINOS),
    "resonance_gun": (
        "ProcessLevel:all = off",
        "ProcessLevel:resonanceDecays = on",
        "25:doForceWidth = on",
        "25:mWidth = 0.001",  # the mass is the one that is drawn
        "25:mMin = 1",
        "25:mMax = 10000",
        "25:oneChannel = 1 0.3 100 1 -1",  # 100: with the given ratio, although the Higgs boson's couplings to them are tiny
        "25:addChannel = 1 0.3 100 2 -2",
        "25:addChannel = 1 0.3 100 3 -3",
        "25:addChannel = 1 0.05 100 4 -4",
        "25:addChannel = 1 0.05 100 5 -5",
    ),
    "inelastic": ("SoftQCD:inelastic = on",),
    "non_diffractive": ("SoftQCD:nonDiffractive = on",),
}
SHOWERS: dict[str, tuple[str, ...]] = {
    "simple": (),
    "vincia": ("PartonShowers:model = 2", "Print:verbosity = 1"),  # its page of settings ignores Print:quiet
}
DECAYING = {"z_jet": 23, "h_jet": 25, "resonance_gun": 25}
"The particle whose decay can be chosen."
DECAYS = {"qq": "1 2 3", "cc": "4", "bb": "5"}
INVISIBLE = (12, 13, 14, 16)
"Species that truth jets are made without."
HEAVY = (6, 23, 24, 25)
"Particles whose decays are looked for in jets."


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


class Origins(NamedTuple):
    """Which decay each hard parton comes from; two arrays of shape (number of partons,).

    Attributes:
        pdg: Identity, without sign, of the first heavy particle in its line (a top quark before its W); 0 for none.
        decay: Number of this particle in the batch, equal for all partons from it; -1 for none.
    """

    pdg: Integers
    decay: Integers


@dataclass(frozen=True)
class Events:
    """A batch of generated events: stable particles, hard partons and their origins, pT-hat in GeV and weight of each event."""

    particles: Particles
    partons: Particles
    origins: Origins
    pthat_gev: Floats
    weight: Floats


class Record(NamedTuple):
    """All particles of a batch of events as Pythia lists them; event e holds rows offsets[e]:offsets[e + 1].

    Attributes:
        pdg: Identities, shape (P,).
        status: Pythia's status, positive for stable particles, shape (P,).
        mother: Row of the first mother within the event, shape (P,).
        momentum_gev: px, py, pz and E in GeV, each of shape (P,).
        offsets: Shape (number of events + 1,).
    """

    pdg: Integers
    status: Integers
    mother: Integers
    momentum_gev: tuple[Floats, ...]
    offsets: NDArray[np.int64]


def process_settings(sample: SampleConfig, config: GeneratorConfig) -> tuple[str, ...]:
    """Return the Pythia settings of a sample: its process, its range of pT-hat, its shower, and what the user adds."""
    upper = -1.0 if sample.pthat_max_gev is None else sample.pthat_max_gev
    bounds = (f"PhaseSpace:pTHatMin = {sample.pthat_min_gev}", f"PhaseSpace:pTHatMax = {upper}")
    return (
        *PROCESSES[sample.process],
        *bounds,
        *_decay(sample),
        *SHOWERS[sample.shower],
        *_hadrons(sample),
        *config.extra_settings,
    )


def _decay(sample: SampleConfig) -> tuple[str, ...]:
    if sample.decay is None:
        return ()
    particle = DECAYING[sample.process]
    return (f"{particle}:onMode = off", f"{particle}:onIfAny = {DECAYS[sample.decay]}")


def _hadrons(sample: SampleConfig) -> tuple[str, ...]:
    return () if sample.hadronisation else ("HadronLevel:Hadronize = off",)


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


Source = Callable[[Any, int], Events]
"Makes up to so many events with a Pythia; some may fail."


def generate(pythia: Any, num_events: int, source: Source | None = None) -> Iterator[Events]:
    """Generate events in batches, `num_events` in total; without a `source`, they are Pythia's own collisions."""
    remaining = num_events
    while remaining > 0:
        events = (source or collisions)(pythia, min(remaining, BATCH_EVENTS))
        if events.particles.num_events == 0:
            raise UserError(f"Pythia failed in all of {BATCH_EVENTS} events; check the range of pT-hat and extra_settings")
        remaining -= events.particles.num_events
        yield events


def cross_section_pb(sample: SampleConfig, config: GeneratorConfig, seed: int) -> float:
    """Measure a sample's cross-section in pb, without showers and hadrons; a gun has none, and counts as 1 pb."""
    if sample.process == "resonance_gun":
        return 1.0
    pythia = start_pythia((*process_settings(sample, config), "PartonLevel:all = off"), config.ecm_gev, seed)
    pythia.nextBatch(config.cross_section_trials)
    return float(pythia.infoPython().sigmaGen()) * MILLIBARN_IN_PICOBARN


def charges(pythia: Any, pdg: Integers) -> Floats:
    """Look up the charges of particles by identity, from Pythia's own table."""
    kinds, positions = np.unique(pdg, return_inverse=True)
    return np.array([pythia.particleData.charge(int(kind)) for kind in kinds], np.float64)[positions]


def collisions(pythia: Any, num_events: int) -> Events:
    """Generate collisions, up to `num_events`."""
    import awkward as ak

    batch = pythia.nextBatch(num_events)
    particles = batch.prt
    offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(particles.id)))]).astype(np.int64)
    pdg, status, mother = (ak.to_numpy(ak.flatten(particles[name])) for name in ("id", "status", "mother1"))
    momentum_gev = tuple(ak.to_numpy(ak.flatten(particles.p[name])) for name in ("px", "py", "pz", "e"))
    weights = ak.to_numpy(batch.info.weights[:, 0]).astype(np.float64)
    pthat_gev = np.sqrt(ak.to_numpy(batch.info.pT2Hat))
    return read_record(pythia, Record(pdg, status, mother, momentum_gev, offsets), pthat_gev, weights)


def read_record(pythia: Any, record: Record, pthat_gev: Floats, weight: Floats) -> Events:
    """Pick the stable particles and the hard partons from what Pythia lists."""
    species = np.abs(record.pdg)
    stable = np.flatnonzero((record.status > 0) & ~_is_diquark(species))
    hard = np.flatnonzero((np.abs(record.status) == 23) & ((species <= 5) | (species == 21)))
    particles, partons = _select(pythia, record, stable), _select(pythia, record, hard)
    return Events(particles, partons, find_origins(record, hard), pthat_gev, weight)


def find_origins(record: Record, rows: NDArray[np.int64]) -> Origins:
    """Follow particles back through heavy particles, and the copies that Pythia makes of them as they radiate."""
    start = record.offsets[np.searchsorted(record.offsets, rows, side="right") - 1]
    pdg, decay = np.zeros(len(rows), np.int64), np.full(len(rows), -1, np.int64)
    line = start + record.mother[rows]
    while (heavy := np.isin(np.abs(record.pdg[line]), HEAVY)).any():
        pdg[heavy], decay[heavy] = np.abs(record.pdg[line[heavy]]), line[heavy]
        line = np.where(heavy, start + record.mother[line], line)
    return Origins(pdg, decay)


def _is_diquark(species: Integers) -> NDArray[np.bool_]:
    """Whether these are pairs of quarks, remnants of a proton that only parton showers leave; by the PDG's numbering."""
    return (species > 1000) & (species < 10000) & (species // 10 % 10 == 0)


def _select(pythia: Any, record: Record, rows: NDArray[np.int64]) -> Particles:
    p4 = np.stack([component[rows] for component in record.momentum_gev], axis=1)
    offsets = np.searchsorted(rows, record.offsets).astype(np.int64)
    return Particles(p4, record.pdg[rows], charges(pythia, record.pdg[rows]), offsets)


def _pythia_module() -> ModuleType:
    try:
        import pythia8mc
    except ModuleNotFoundError as error:
        raise MissingExtraError("simulation needs Pythia 8", "simulation") from error
    return pythia8mc
