"""Which events are simulated, with what detector, and how is that cut into tasks?

A sample is one process in one range of pT-hat. It is cut into files of `events_per_task` events, whatever the number of
workers, and each file has a random seed of its own, derived from (seed, sample, file): the files depend on this configuration
alone. Samples are weighted with their cross-section, so their sum is the physical spectrum.
"""

import zlib
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from distjet.config import Config
from distjet.run_directory import identity_hash
from distjet.storage import Location

FORMAT_VERSION = 3
"Part of every task's hash: raise it when the simulation changes what it writes, so that old files are made anew."

RADII = (0.2, 0.4, 0.8, 1.0)
"Jet radii that a tree can have."

MIN_LABELLED_RADIUS = 0.8
"Smaller jets do not hold the decay of a heavy particle, and get no truthjet_label."

Kind = Literal["topo", "pflow", "eflow", "truth"]
"What jets are made of: topological clusters, particle-flow objects, the energy flow of a fast detector, stable particles."

TREE_KINDS: dict[Kind, str] = {"topo": "EMTopo", "pflow": "EMPFlow", "eflow": "EFlow", "truth": "Truth"}
"How a tree's name says what its jets are made of."

Process = Literal["dijet", "ttbar", "w_jet", "z_jet", "h_jet", "z_quark", "z_gluon", "resonance_gun"]
"Hard processes of samples."

WITH_CHOSEN_DECAY = ("z_jet", "h_jet", "resonance_gun")
"Processes whose boson can be made to decay in one way only."

LIBRARY_DIRECTORY = "pileup"
"Where the library of pileup collisions lies, beside the samples."

FIRST_CHANNEL_NUMBER = 800000
"mcChannelNumber of run number 0; a channel stands for one sample."

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class GrownConfig(Config):
    """A section to which keys have been added: at their defaults they are left out of its dump, so files keep their hashes."""

    added: ClassVar[tuple[str, ...]] = ()
    "The keys that came later."

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unset = {name for name in self.added if getattr(self, name) == fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in unset}


class SampleConfig(GrownConfig):
    """One process in one range of pT-hat."""

    added = ("decay", "mass_gev", "hadronisation")

    process: Process = "dijet"
    """Hard process: QCD dijets; top pairs; a W, Z or Higgs boson with a jet. W and Z decay to quarks, the Higgs boson to b or
    c. z_quark and z_gluon: a Z boson that decays to neutrinos, with a quark or a gluon. resonance_gun: one spin-0 particle and
    nothing else, flat in mass, in pT (from pthat_min_gev to pthat_max_gev), in |eta| < 2 and in azimuth."""
    decay: Literal["qq", "cc", "bb"] | None = None
    "The one decay of the particle of z_jet, h_jet and resonance_gun: to light quarks, c or b. Null: all those of the process."
    mass_gev: tuple[Positive, Positive] | None = None
    "Range of the mass of the particle of resonance_gun, GeV."
    shower: Literal["simple", "vincia"] = "simple"
    "Parton shower: Pythia's own, or Vincia's antennae, another model of the same physics (eight times slower)."
    hadronisation: bool = True
    """False leaves the partons after the shower as the stable particles, without the remnants of the beams that are pairs of
    quarks: what depends on hadrons differs. For jets of `truth` only, since a detector measures hadrons."""
    pthat_min_gev: Positive
    "Lower edge of the transverse momentum of the hard process, GeV; QCD diverges towards 0."
    pthat_max_gev: Positive | None = None
    "Upper edge, GeV; none for the highest slice."
    num_events: Annotated[int, Field(gt=0)]
    "Events to generate; those without jets count in the weights but leave no entry."

    @model_validator(mode="after")
    def _range(self) -> "SampleConfig":
        if self.pthat_max_gev is not None and self.pthat_max_gev <= self.pthat_min_gev:
            raise ValueError(f"pthat_max_gev must exceed pthat_min_gev={self.pthat_min_gev} (got {self.pthat_max_gev})")
        return self

    @model_validator(mode="after")
    def _decays(self) -> "SampleConfig":
        if self.decay is not None and self.process not in WITH_CHOSEN_DECAY:
            raise ValueError(f"decay is for {', '.join(WITH_CHOSEN_DECAY)} (got process={self.process})")
        is_gun = self.process == "resonance_gun"
        if is_gun != (self.mass_gev is not None) or (is_gun and None in (self.decay, self.pthat_max_gev)):
            raise ValueError(
                "resonance_gun, and nothing else, has a mass_gev: [low, high]; it needs a decay and a pthat_max_gev, too "
                f"(got {self.process} with mass_gev={self.mass_gev}, decay={self.decay}, pthat_max_gev={self.pthat_max_gev})"
            )
        if self.mass_gev is not None and not self.mass_gev[0] < self.mass_gev[1]:
            raise ValueError(f"mass_gev must be [low, high] with low < high (got {list(self.mass_gev)})")
        return self


class GeneratorConfig(Config):
    """Pythia 8."""

    ecm_gev: Positive = 13600.0
    "Centre-of-mass energy of the proton-proton collisions, GeV (LHC Run 3)."
    extra_settings: tuple[str, ...] = ()
    "Further Pythia settings of the samples (not of the pileup), e.g. 'PartonLevel:MPI = off': faster, no underlying event."
    cross_section_trials: Annotated[int, Field(ge=100)] = 20000
    "Phase-space points per sample for its cross-section; 20000 give 0.4 % in under a second."


class PileupConfig(Config):
    """Simultaneous proton-proton collisions."""

    mu: tuple[NonNegative, NonNegative] = (10.0, 70.0)
    "Range of the mean number of collisions per crossing, drawn uniformly for each event; equal numbers fix it, 0 is none."
    library_events: Annotated[int, Field(ge=10)] = 4000
    "Inelastic collisions made once and reused with random rotations (128) and reflections (2); 4000 take about 10 s."
    process: Literal["inelastic", "non_diffractive"] = "inelastic"
    "Kind of the collisions; non_diffractive leaves out the quieter quarter of them and starts four seconds sooner."
    out_of_time_subtraction: Annotated[float, Field(ge=0, le=1)] = 0.9
    "Share of the mean pileup energy per cell that the pulse shape removes through earlier crossings (bipolar shaping)."
    out_of_time_noise: NonNegative = 0.5
    "Noise from neighbouring crossings, in units of the in-time pileup fluctuation of a cell."

    @model_validator(mode="after")
    def _ordered(self) -> "PileupConfig":
        if self.mu[0] > self.mu[1]:
            raise ValueError(f"mu must be [low, high] with low <= high (got {list(self.mu)})")
        return self


class DetectorConfig(Config):
    """The calorimeter's response and the thresholds of the topological clusters."""

    e_over_h: Positive = 1.6
    "Ratio of the electromagnetic to the hadronic response: 1 compensates, above 1 hadrons are measured too low."
    material_scale: NonNegative = 1.0
    "Amount of dead material in front of and between the calorimeters, relative to the default."
    noise_scale: Positive = 1.0
    "Electronic noise relative to 35, 50 and 60 MeV per cell in the three samplings."
    seed_threshold: Positive = 4.0
    "Significance |E| / noise of a cell that starts a cluster."
    growth_threshold: Positive = 2.0
    "Significance of a cell that passes the cluster on to its neighbours."
    min_maximum_gev: Positive = 0.5
    "Energy in GeV of a local maximum that splits a cluster."


class JetConfig(GrownConfig):
    """Which jets are reconstructed and kept."""

    added = ("label_distance_in_r",)

    radii: tuple[float, ...] = (0.2, 0.4)
    "Radii of the anti-kT jets, out of 0.2, 0.4, 0.8 and 1.0; each is one tree of every kind of constituents."
    constituents: tuple[Kind, ...] = ("topo",)
    """What jets are made of: topo (topological clusters), pflow (tracks, and what they leave of the clusters); or eflow (tracks
    and towers of a fast, Delphes-like detector, without pileup); or truth (the stable particles, without a detector)."""
    label_distance_in_r: Positive | None = None
    """Trees of R >= 0.8 get truthjet_label, which decay a jet holds (`distjet.simulation.labels`): its quarks must lie within
    this times R of the axis of the truth jet. Null: no such branch."""
    min_pt_gev: NonNegative = 5.0
    """Reconstructed jets below this transverse momentum (constituent scale, GeV) are dropped. With 0 (and max_abs_eta: 5) each
    tree holds every constituent of every event exactly once."""
    min_truth_pt_gev: Positive = 5.0
    "Truth jets below this transverse momentum, GeV, are not used for matching."
    max_abs_eta: Positive = 4.5
    "Reconstructed jets beyond this pseudorapidity are dropped: the calorimeter ends at 4.9."
    matched_only: bool = False
    "Keep only jets with a truth match: smaller files where pileup jets are of no interest."
    rho: Literal["grid_median", "kt_median"] = "grid_median"
    "Estimator of the pileup density; grid_median is within a few percent of kt_median and a hundred times faster."

    @model_validator(mode="after")
    def _radii(self) -> "JetConfig":
        if not self.radii or len(set(self.radii)) != len(self.radii) or not set(self.radii) <= set(RADII):
            raise ValueError(f"radii must be one or more of {list(RADII)}, each once (got {list(self.radii)})")
        return self

    @model_validator(mode="after")
    def _kinds(self) -> "JetConfig":
        if not self.constituents or len(set(self.constituents)) != len(self.constituents):
            raise ValueError(f"constituents must be of topo, pflow, eflow and truth, each once (got {list(self.constituents)})")
        if "eflow" in self.constituents and self.has_clusters:
            raise ValueError(f"eflow is a detector of its own, without topo and pflow (got {list(self.constituents)})")
        return self

    @property
    def has_clusters(self) -> bool:
        """Whether jets are made of what the detector with cells, noise and pileup measures."""
        return bool({"topo", "pflow"} & set(self.constituents))


class SharedSettings(Config):
    """What all samples of a run have in common."""

    seed: Annotated[int, Field(ge=0)] = 1
    "Seed of everything random."
    events_per_task: Annotated[int, Field(gt=0)] = 500
    "Events per file; fixed, because the files must not depend on the number of workers."
    generator: GeneratorConfig = GeneratorConfig()
    "Pythia 8."
    pileup: PileupConfig = PileupConfig()
    "Simultaneous collisions."
    detector: DetectorConfig = DetectorConfig()
    "Calorimeter response and clusters."
    jets: JetConfig = JetConfig()
    "Jets to reconstruct and keep."


class SimulateConfig(SharedSettings):
    """Configuration of `distjet simulate`."""

    output: Location
    "Directory of the ntuples, or s3://bucket/folder."
    samples: Annotated[dict[str, SampleConfig], Field(min_length=1)]
    "Samples by name; the name is that of the directory and of the files, the order gives runNumber, from 1."

    @model_validator(mode="after")
    def _names(self) -> "SimulateConfig":
        for name in self.samples:
            if name == LIBRARY_DIRECTORY or not name.replace("_", "").isalnum():
                rule = f"a sample's name has letters, digits and underscores and is not {LIBRARY_DIRECTORY!r}"
                raise ValueError(f"{rule} (got {name!r})")
        return self

    @model_validator(mode="after")
    def _detector(self) -> "SimulateConfig":
        kinds = list(self.jets.constituents)
        if not self.jets.has_clusters and self.pileup.mu[1] > 0:
            raise ValueError(f"jets of {' and '.join(kinds)} are made without pileup: set pileup.mu: [0, 0]")
        for name, sample in self.samples.items():
            if not sample.hadronisation and kinds != ["truth"]:
                raise ValueError(f"samples.{name} without hadronisation needs jets.constituents: [truth] (got {kinds})")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the part of the configuration that defines the ntuples: everything except where they are written."""
        return self.model_dump(mode="json", exclude={"output"})

    def settings(self) -> dict[str, Any]:
        """Return what all samples share, as plain values; a sample's files do not depend on the other samples."""
        return {key: value for key, value in self.identity().items() if key != "samples"}


def tree_name(radius: float, kind: Kind) -> str:
    """Name the tree of a kind of jets.

    Example:
        >>> tree_name(0.4, "pflow")
        'AntiKt4EMPFlowJets'
    """
    return f"AntiKt{round(10 * radius)}{TREE_KINDS[kind]}Jets"


@dataclass(frozen=True)
class LibraryTask:
    """Make the library of pileup collisions."""

    path: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class CrossSectionTask:
    """Measure the cross-section of one sample."""

    sample: str
    sample_config: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class FileTask:
    """Simulate one file.

    Attributes:
        path: The ROOT file to write; its record goes beside it with the suffix .json.
        sample: Name of the sample.
        run_number: Number of the sample, from 1.
        index: Number of the file within the sample.
        first_event: eventNumber of the file's first event.
        num_events: Events in this file.
        weight_pb: Weight of an event of generator weight 1: cross-section in pb / events of the whole sample.
        library: File of the pileup library, empty without pileup.
        sample_config: The sample's `SampleConfig` as plain values.
        settings: `SharedSettings` as plain values.
    """

    path: str
    sample: str
    run_number: int
    index: int
    first_event: int
    num_events: int
    weight_pb: float
    library: str
    sample_config: dict[str, Any]
    settings: dict[str, Any]

    def identity(self) -> str:
        """Return the hash of everything that defines the file's content: all but the paths."""
        content = {key: value for key, value in vars(self).items() if key not in {"path", "library"}}
        return identity_hash({"format": FORMAT_VERSION, **content})


def library_task(config: SimulateConfig) -> LibraryTask | None:
    """Return the task that makes the pileup library, or None without pileup."""
    if config.pileup.mu[1] == 0:
        return None
    settings = config.settings()
    parts = {key: settings[key] for key in ("seed", "detector")}
    parts |= {"ecm_gev": config.generator.ecm_gev}
    parts |= {key: settings["pileup"][key] for key in ("process", "library_events")}
    name = f"library_{identity_hash({'format': FORMAT_VERSION, **parts})}.npz"
    return LibraryTask(str(config.output / LIBRARY_DIRECTORY / name), settings)


def cross_section_tasks(config: SimulateConfig) -> list[CrossSectionTask]:
    """Return one task per sample, in the order of the configuration."""
    settings = config.settings()
    return [CrossSectionTask(name, sample.model_dump(mode="json"), settings) for name, sample in config.samples.items()]


def file_tasks(config: SimulateConfig, cross_sections_pb: dict[str, float]) -> list[FileTask]:
    """Cut all samples into files.

    Args:
        config: The run.
        cross_sections_pb: Cross-section of each sample in pb.
    """
    library = library_task(config)
    settings = config.settings()
    return [
        FileTask(
            path=str(config.output / name / f"{name}_{index:05d}.root"),
            sample=name,
            run_number=number,
            index=index,
            first_event=first,
            num_events=min(config.events_per_task, sample.num_events - first),
            weight_pb=cross_sections_pb[name] / sample.num_events,
            library=library.path if library else "",
            sample_config=sample.model_dump(mode="json"),
            settings=settings,
        )
        for number, (name, sample) in enumerate(config.samples.items(), start=1)
        for index, first in enumerate(range(0, sample.num_events, config.events_per_task))
    ]


def entropy(seed: int, stream: str, index: int = 0) -> tuple[int, int, int]:
    """Return what to seed a numpy SeedSequence with, for one named stream of random numbers."""
    return seed, zlib.crc32(stream.encode()), index
