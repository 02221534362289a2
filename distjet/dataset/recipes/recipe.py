"""Which branches of an input file become which columns of a graph?

A recipe is a mapping in YAML. Wherever it takes a value, the value is a branch or a line of arithmetic on branches and names
(`distjet.dataset.recipes.expressions`); a bare name in a list of columns is a branch or a named feature (`features.py`).
Four-momenta are given in whichever components the file has, in `energy_unit`; everything after them is in GeV and radians.

An expression sees the branches and the names that are defined above it, in this order: `variables`, `constituents`, `jet`,
`truth`, the named features. So `jet: {pt: jet_pt}` means the branch, and `cuts: {hard: jet_pt > 20}` the column in GeV.

Files that are no ntuples have lists of a fixed length, or numbered columns in place of lists: `E_*` makes a list of the columns
E_0, E_1, ..., `X[2]` takes the third number of each constituent of an array with three dimensions, and `constituents.padding`
says which elements are none.

Like all files that define configurations, this one imports neither numba, uproot nor torch.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from distjet.config import ComponentConfig, Config, component_type, unknown
from distjet.dataset.graphs.configs import GRAPHS, NOT_STORED, DelaunayConfig, NoEdgesConfig
from distjet.dataset.recipes import expressions
from distjet.physics.substructure_variables import SUBSTRUCTURE
from distjet.run_directory import identity_hash
from distjet.storage import Location, Place, check_options, check_url

QUANTITIES = ("pt", "eta", "phi", "mass", "energy", "px", "py", "pz")
"Components in which a four-momentum can be given."

COMPLETE = ({"pt", "eta", "phi"}, {"energy", "eta", "phi"}, {"px", "py", "pz", "energy"}, {"px", "py", "pz", "mass"})
"Sets of components that fix a four-momentum (the first two: of a massless constituent, or together with a mass or an energy)."

FULL_BITS = 23
"Bits of the mantissa of a float32."

RESERVED = ("run", "event", "jet_index", "sample", "weight", "label", "num_nodes", "edges")


def _check_formula(text: str) -> str:
    return expressions.parse(text).text


def _check_name(name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"expected a name of letters, digits and _ (got {name!r})")
    return name


Formula = Annotated[str, BeforeValidator(str), AfterValidator(_check_formula)]
"A branch, or arithmetic on branches and defined names."

Name = Annotated[str, AfterValidator(_check_name)]


class Column(Config):
    """One column of the dataset, or one cut."""

    name: Name
    value: Formula
    unit: str = ""
    "For the schema and the plots; GeV, rad, or empty for a dimensionless number."
    description: str = ""


def _as_columns(given: Any) -> Any:
    """Accept `name`, `{name: value}`, `{name: {value: ..., unit: ...}}` and the full form, in a list or a mapping."""
    if given is None or isinstance(given, Mapping):
        return [_as_column({name: value}) for name, value in _without_null(given).items()]
    if isinstance(given, list | tuple):
        return [_as_column(item) for item in given]
    return given


def _without_null(given: Any) -> Any:
    """Drop entries that a later file or an override has set to null, so that `recipe.cuts.isolated=null` removes a cut."""
    if given is None:
        return {}
    return {name: value for name, value in given.items() if value is not None} if isinstance(given, Mapping) else given


def _as_column(item: Any) -> Any:
    if isinstance(item, str):
        return {"name": item, "value": item}
    if isinstance(item, Mapping) and len(item) == 1 and "name" not in item:
        (name, value), *_ = item.items()
        return {"name": name, **value} if isinstance(value, Mapping) else {"name": name, "value": value}
    return item


Columns = Annotated[tuple[Column, ...], BeforeValidator(_as_columns)]


def _check_range(bounds: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = bounds
    if low is None and high is None:
        raise ValueError("expected [low, high], of which one may be null (got [null, null])")
    if low is not None and high is not None and low > high:
        raise ValueError(f"expected [low, high] (got [{low:g}, {high:g}])")
    return bounds


Range = Annotated[tuple[float | None, float | None], AfterValidator(_check_range)]
"Smallest and largest value that can be, either may be null."


SplitName = Literal["train", "val", "test"]

Formulas = Annotated[dict[Name, Formula], BeforeValidator(_without_null)]
"Names and formulas, in order; null removes an entry of an earlier file."


class FourMomentum(Config):
    """The components of a four-momentum that the file has; the others follow."""

    pt: Formula | None = None
    eta: Formula | None = None
    phi: Formula | None = None
    mass: Formula | None = None
    energy: Formula | None = None
    px: Formula | None = None
    py: Formula | None = None
    pz: Formula | None = None

    def given(self) -> dict[str, str]:
        """Return the components that the file has."""
        return {name: value for name in QUANTITIES if (value := getattr(self, name)) is not None}

    @pydantic.model_validator(mode="after")
    def _is_complete(self) -> "FourMomentum":
        names = set(self.given())
        extra = (
            names - {"pt", "eta", "phi", "mass", "energy"}
            if "px" not in names
            else names - {"px", "py", "pz", "energy", "mass"}
        )
        if extra or not any(complete <= names for complete in COMPLETE) or {"mass", "energy", "pt"} <= names:
            raise ValueError(
                "expected pt, eta, phi and mass or energy; or energy, eta, phi and mass; or px, py, pz and energy or mass "
                f"(got {', '.join(sorted(names)) or 'nothing'})"
            )
        return self


class MassiveFourMomentum(FourMomentum):
    """The four-momentum of a jet: a mass or an energy is needed."""

    @pydantic.model_validator(mode="after")
    def _has_mass(self) -> "MassiveFourMomentum":
        if self.mass is None and self.energy is None:
            raise ValueError("a jet needs mass or energy beside pt, eta and phi")
        return self


class Constituents(FourMomentum):
    """What a jet consists of; without mass and energy, constituents are massless."""

    jet_link: Formula | None = None
    "For a flat collection of candidates with a list of links: the link's jet, counted within the event."
    constituent_link: Formula | None = None
    "The link's candidate, counted within the event; links with a negative number are left out."
    padding: Formula | None = None
    "Where this holds, an element of the lists is no constituent but fills them up to a fixed length: `energy == 0`."
    variables: Formulas = Field(default_factory=dict)
    "More names for branches of the collection of candidates."

    @pydantic.model_validator(mode="after")
    def _links_come_in_pairs(self) -> "Constituents":
        if (self.jet_link is None) != (self.constituent_link is None):
            raise ValueError("jet_link and constituent_link go together")
        if self.jet_link is not None and self.padding is not None:
            raise ValueError("padding is for lists of a fixed length; a candidate that no link names is left out anyway")
        return self


class Truth(MassiveFourMomentum):
    """The reference jets, and how a jet finds its own."""

    index: Formula | None = None
    """For each jet, the number of its reference jet within the event. A number that is negative, or beyond the reference jets
    that the file has, means that there is none: NanoAOD's Jet_genJetIdx also counts jets below the pT cut of GenJet."""
    delta_r: float | None = Field(default=None, gt=0)
    "Match to the nearest reference jet within this distance in (eta, phi); each is taken once, by the jet nearest to it."
    variables: Formulas = Field(default_factory=dict)
    "More names for branches of the collection of reference jets."

    @property
    def is_collection(self) -> bool:
        """Whether the reference jets are a collection of their own, to be matched; else each jet's entry holds its own."""
        return self.index is not None or self.delta_r is not None

    @pydantic.model_validator(mode="after")
    def _one_way_to_match(self) -> "Truth":
        if self.index is not None and self.delta_r is not None:
            raise ValueError("match by index or by delta_r, not by both")
        return self


class Identity(Config):
    """What makes a row the same row wherever it is read: it fixes the split and the place in the shuffle."""

    run: Formula | None = None
    event: Formula | None = None
    "Without it, an entry of a file is an event, and the file's unique identifier is the run."
    jet_index: Formula | None = None
    "Number of the jet within the event; by default its position in the event, or the entry number where an entry is a jet."

    @pydantic.model_validator(mode="after")
    def _run_needs_event(self) -> "Identity":
        if self.event is None and (self.run is not None or self.jet_index is not None):
            raise ValueError("run and jet_index need event")
        return self


def _as_graph(given: Any) -> Any:
    """Accept the name of a graph in place of `{name: ...}`."""
    if given is None:
        raise ValueError("expected the name of a graph, or a mapping with a name; constituents without edges are `none`")
    return {"name": given} if isinstance(given, str) else given


def _check_substructure(name: str) -> str:
    if name not in SUBSTRUCTURE:
        raise ValueError(unknown("variable of substructure", name, SUBSTRUCTURE))
    return name


class Recipe(Config):
    """The mapping from branches to columns."""

    tree: str
    """Name of the TTree or RNTuple; in an HDF5 file, of the group of arrays, the dataset of records or the frame of pandas, `/`
    for the top of the file; `/` for an npz archive."""
    layout: Literal["jet", "event"] = "jet"
    "What an entry is: a jet (constituents are lists), or an event (jets are lists, constituents lists of lists or linked)."
    energy_unit: Literal["GeV", "MeV"] = "GeV"
    "Unit of the four-momenta in the file. Other branches are taken as they are."
    optional: dict[str, float] = Field(default_factory=dict)
    """Branches with one number per entry that a file may lack, and the number that stands in for them there: {training_weights:
    1} where the files for testing have none."""
    variables: Formulas = Field(default_factory=dict)
    "Names for intermediate results, defined before everything else."
    constituents: Constituents | None = None
    "Absent: a dataset of jets without graphs."
    jet: MassiveFourMomentum | None = None
    "Reconstructed jet at the scale of the constituents. Absent: the sum of the constituents."
    truth: Truth | None = None
    "Reference jet; becomes the target columns true_pt, true_eta, true_phi, true_energy, true_mass."
    edges: Annotated[component_type("graph", GRAPHS, "delaunay"), BeforeValidator(_as_graph)] = DelaunayConfig()  # type: ignore[valid-type]
    """What connects the constituents: delaunay, knn, radius, fully_connected or none; a name, or a mapping with the name and
    its parameters, {name: knn, k: 16}. Distances are in (eta, phi)."""
    nodes: Columns = ()
    "Features of a constituent."
    mantissa_bits: dict[Name, Annotated[int, Field(ge=1, le=FULL_BITS)]] = Field(default_factory=dict)
    """Columns of constituents (nodes, px, py, pz, energy) that are rounded, and to how many of the 23 bits of a float32. They
    stay float32; with 10 bits, a number is off by at most 1/2048 of itself and takes half of the space. Edges and jets are
    computed before."""
    graph: Columns = ()
    "Features of a jet."
    substructure: tuple[Annotated[str, AfterValidator(_check_substructure)], ...] = ()
    """Variables of jet substructure that are computed from the constituents, such as tau21; they become features of a jet.
    Names are those of `distjet.physics.substructure_variables.SUBSTRUCTURE`."""
    targets: Columns = ()
    "What is learned, beside the four-momentum of `truth`."
    labels: Formulas = Field(default_factory=dict)
    "Class name -> condition; exactly one must hold for each jet. The label is the number of the class in this list."
    split: Annotated[dict[SplitName, Formula], BeforeValidator(_without_null)] = Field(default_factory=dict)
    """A split that was published with the files: split -> condition, {train: ttv == 0, val: ttv == 2, test: ttv == 1} or {test:
    sample == 'test'}. At most one may hold for a jet; jets for which none holds are divided by their events, in proportion to
    the fractions of `split`, among the splits that are not named here."""
    spectators: Columns = ()
    "Numbers kept for plots and for the baselines, not for training."
    cuts: Columns = ()
    "Conditions for a jet to be kept, in this order; the manifest counts what each removes."
    ranges: Annotated[dict[Name, Range], BeforeValidator(_without_null)] = Field(default_factory=dict)
    """{column: [low, high]}, null for no bound: a jet with a value beyond them is quarantined, as damaged. This is for what
    cannot be, {charge: [-1, 1]}; what is not wanted is a cut."""
    weight: Formula = "1"
    "Event weight."
    identity: Identity = Identity()

    @pydantic.model_validator(mode="after")
    def _has_jets(self) -> "Recipe":
        if self.constituents is None and self.jet is None:
            raise ValueError("a recipe needs constituents, or a jet, or both")
        for block in ("nodes", "substructure"):
            if self.constituents is None and getattr(self, block):
                raise ValueError(f"{block} need constituents")
        for name in ("constituents.jet_link", "truth.index", "truth.delta_r"):
            block, key = name.split(".")
            if self.layout == "jet" and getattr(getattr(self, block), key, None) is not None:
                raise ValueError(f"{name} needs layout: event (a link counts within an event)")
        return self

    @pydantic.model_validator(mode="after")
    def _names_are_unique(self) -> "Recipe":
        columns = [*self.nodes, *self.graph, *self.targets, *self.spectators]
        names = [*RESERVED, *JET_NAMES, *(TRUE_NAMES if self.truth else ()), *(P4_NAMES if self.constituents else ())]
        for column in columns:
            if column.name in names:
                raise ValueError(
                    f"two columns are called {column.name!r}; give one another name, {{other_name: {column.value}}}"
                )
            names.append(column.name)
        for name in self.substructure:
            if name in names:
                raise ValueError(f"two columns are called {name!r}; give the one that is not substructure another name")
            names.append(name)
        cuts = [*(cut.name for cut in self.cuts), CUT_EMPTY_GRAPH]
        if self.truth is not None and self.truth.is_collection:
            cuts.append(CUT_UNMATCHED)
        if repeated := {name for name in cuts if cuts.count(name) > 1}:
            raise ValueError(
                f"two cuts are called {sorted(repeated)[0]!r} (distjet adds {CUT_UNMATCHED!r} and {CUT_EMPTY_GRAPH!r})"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _ranges_are_of_columns(self) -> "Recipe":
        columns = [column.name for column in (*self.nodes, *self.graph, *self.targets, *self.spectators)]
        p4 = P4_NAMES if self.constituents else ()
        numbers = [*p4, *JET_NAMES, *(TRUE_NAMES if self.truth else ()), "weight", *columns, *self.substructure]
        for name in self.ranges:
            if name not in numbers:
                raise ValueError("ranges: " + unknown("column", name, numbers))
        return self

    @pydantic.model_validator(mode="after")
    def _rounded_columns_exist(self) -> "Recipe":
        known = [*(P4_NAMES if self.constituents else ()), *(column.name for column in self.nodes)]
        for name in self.mantissa_bits:
            if name not in known:
                raise ValueError("mantissa_bits: " + unknown("column of constituents", name, known))
        return self

    @pydantic.model_validator(mode="after")
    def _variables_are_new(self) -> "Recipe":
        blocks = [self.variables, *(block.variables for block in (self.constituents, self.truth) if block is not None)]
        names = [name for block in blocks for name in block]
        taken = {*RESERVED, *QUANTITIES, *JET_NAMES, *TRUE_NAMES}
        for name in names:
            if name in taken or names.count(name) > 1:
                raise ValueError(f"a variable cannot be called {name!r}: the name has a meaning already; choose another one")
        return self

    @property
    def connection(self) -> ComponentConfig:
        """What connects the constituents; `none` without constituents."""
        return self.edges if self.constituents is not None else NoEdgesConfig()

    @property
    def has_edges(self) -> bool:
        """Whether edges are stored."""
        return self.connection.name not in NOT_STORED

    def meaning(self) -> dict[str, Any]:
        """Return all keys, but those that came later only where they say something: a dataset from before stays itself."""
        found = self.model_dump(mode="json")
        later = [(found, "optional"), (found, "split"), (found, "substructure")]
        later += [(found["constituents"], "padding")] if self.constituents else []
        for block, key in later:
            if not block[key]:
                del block[key]
        return found


CUT_UNMATCHED = "truth_matched"
"Applied first where reference jets are matched by distjet."

CUT_EMPTY_GRAPH = "empty_graph"
"Applied last where there are constituents."

P4_NAMES = ("px", "py", "pz", "energy")
JET_NAMES = ("jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_mass")
TRUE_NAMES = ("true_pt", "true_eta", "true_phi", "true_energy", "true_mass")


class Input(Config):
    """Files of one sample."""

    sample: Name | None = None
    "Name of the sample; by default the name of the folder that holds the file."
    files: Annotated[tuple[str, ...], Place()]
    """Paths, patterns with * or **, folders (all .root files below; if there are none, .h5, .hdf5 and .npz files), URLs
    (https://, root://, s3://; with * where the server can list its files), or lists: text files whose name ends in .txt with
    one of these on each line, # for comments, and relative paths counted from the folder of the list."""

    @pydantic.field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str | Path) else given

    @pydantic.field_validator("files")
    @classmethod
    def _hold_no_secret(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        for file in files:
            check_url(file)
        return files


def _as_inputs(given: Any) -> Any:
    """Accept a pattern, a list of patterns, `{sample: patterns}` and the full form."""
    if isinstance(given, str | Path):
        return [{"files": str(given)}]
    if isinstance(given, Mapping):
        return [{"sample": sample, "files": files} for sample, files in given.items()]
    if isinstance(given, list | tuple):
        return [{"files": str(item)} if isinstance(item, str | Path) else item for item in given]
    return given


Inputs = Annotated[tuple[Input, ...], BeforeValidator(_as_inputs)]
"A folder, a pattern, a URL, a text file that lists them, a list of these, {sample: files}, or [{sample, files}]."


class Split(Config):
    """Fractions of the events; what is left after train and val is the test split."""

    train: float = Field(default=0.8, gt=0, le=1)
    val: float = Field(default=0.1, ge=0, le=1)

    @pydantic.model_validator(mode="after")
    def _fits(self) -> "Split":
        if self.train + self.val > 1:
            raise ValueError(f"train + val must not exceed 1 (got {self.train} + {self.val})")
        return self

    def without(self, named: Collection[str]) -> tuple[float, float]:
        """Return the fractions for train and val of the jets that go to none of the named splits, divided among the others.

        Raises:
            ValueError: If the other splits have no share of anything.
        """
        shares = {"train": self.train, "val": self.val, "test": 1 - self.train - self.val}
        if not named or len(named) == len(shares):
            return self.train, self.val
        left = {name: 0.0 if name in named else max(share, 0.0) for name, share in shares.items()}
        if not (total := sum(left.values())):
            others = [name for name in shares if name not in named]
            raise ValueError(f"split leaves no jets for {' and '.join(others)}, which recipe.split does not name")
        train = left["train"] / total
        return train, (left["val"] / total if left["test"] else 1 - train)


class Tolerance(Config):
    """How much may be quarantined before a run fails."""

    max_files: int = Field(default=0, ge=0)
    "Input files that cannot be used: absent, corrupt, not the catalogue's, without the tree or a branch, or duplicates."
    max_row_fraction: float = Field(default=0.0, ge=0, le=1)
    "Jets with a number that is not finite, impossible or out of the recipe's ranges, as a fraction of the jets read."


def _as_remote(given: Any) -> Any:
    """Accept `stage` and `direct` for `{mode: stage}` and `{mode: direct}`."""
    return {"mode": given} if isinstance(given, str) else given


Protocol = Literal["http", "https", "root", "s3"]


class Remote(Config):
    """How inputs are read that are given as URLs."""

    mode: Literal["stage", "direct"] = "stage"
    """stage: each file is copied to a hidden folder of the dataset, hashed on the way, and the copy is removed when it has been
    converted; the copies need room for all remote inputs. direct: branches are read where the file lies, which pays for files
    of which few branches are needed; such a file has no hash in the manifest, and where ROOT gave it no unique identifier (in
    an RNTuple), its URL, size and tag stand for its content: they tell its rows apart if these have no event numbers."""
    retries: int = Field(default=5, ge=0)
    "Times that a request is repeated which failed for a reason that may pass; pauses grow from 1 s to 30 s."
    options: dict[Protocol, dict[str, Any]] = Field(default_factory=dict)
    """For fsspec, by protocol: {s3: {anon: true, endpoint_url: "https://..."}}. The manifest repeats them: keys and passwords
    belong in the environment, and are refused here."""

    @pydantic.field_validator("options")
    @classmethod
    def _hold_no_secret(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        check_options(options)
        return options

    def options_for(self, url: str) -> dict[str, Any]:
        """Return the options for the protocol of a URL."""
        return next((options for protocol, options in self.options.items() if url.startswith(f"{protocol}:")), {})


RemoteChoice = Annotated[Remote, BeforeValidator(_as_remote)]
"`stage` or `direct` alone is the mode."


class PrepareConfig(Config):
    """Files of jets (ROOT, HDF5, npz) to a sharded, shuffled dataset with a manifest."""

    inputs: Inputs = Field(min_length=1)
    "A folder, a pattern, a URL, a text file that lists them, a list of these, {sample: files}, or [{sample, files}]."
    remote: RemoteChoice = Remote()
    "How URLs are read; `stage` or `direct` alone is the mode."
    checksums: Annotated[Path | dict[str, str] | None, Place()] = None
    """What a catalogue says about input files, to be compared with their bytes: a text file with lines
    `adler32 1a2b3c4d /path/or/url`, or {path: "adler32:1a2b3c4d"}; also md5, sha256 and xxh3_128. Files without a line are not
    compared."""
    output: Location
    "Folder of the dataset, or s3://bucket/folder."
    work: Location | None = None
    """Folder for what is needed only until the dataset is finished, the spills of the shuffle and copies of remote inputs; all
    workers must see it. null: hidden folders in `output`. With an output on s3://, a shared file system is faster, and needed
    for remote=stage."""
    recipe: Recipe
    seed: int = Field(default=1, ge=0, lt=2**63)
    "Of the split and the shuffle."
    split: Split = Split()
    rows_per_shard: int = Field(default=100_000, ge=1)
    "Target; a split is divided into equal shares of at most about this size (200 MB at 50 constituents)."
    row_group_size: int = Field(default=2000, ge=1)
    "Rows that are read together; 2000 jets are about 4 MB."
    entries_per_task: int = Field(default=20_000, ge=1)
    """Entries read at a time, rounded to the file's clusters; bounds the memory of a task and changes nothing in the result,
    except with `shuffle: local`."""
    shuffle: Literal["global", "local"] = "global"
    """global: the rows of all inputs are mixed uniformly, in two passes with a spill between them. local: in one pass, the rows
    of a task are mixed with each other and become its own shards, one per split; for inputs that are mixed already. Then
    rows_per_shard does nothing, entries_per_task fixes the size of the shards, and rows that repeat an identity are only found
    within a shard."""
    pt_edges_gev: tuple[float, ...] = tuple(round(10 * 2 ** (i / 4), 3) for i in range(37))
    "Bins in jet pT of the (pT, mass) histogram, 10 to 5120 GeV."
    mass_edges_gev: tuple[float, ...] = tuple(float(5 * i) for i in range(61))
    "Bins in jet mass of the (pT, mass) histogram, 0 to 300 GeV."
    tolerance: Tolerance = Tolerance()

    @property
    def fractions(self) -> tuple[float, float]:
        """Fractions for train and val of the events that `recipe.split` leaves to chance."""
        return self.split.without(self.recipe.split)

    @property
    def hidden(self) -> Path:
        """The folder of the hidden folders; in `work`, each output has its own."""
        return self.output if self.work is None else self.work / f"distjet-{identity_hash({'output': str(self.output)})}"

    def identity(self) -> dict[str, Any]:
        """Return what defines the dataset: not where it is written, how inputs are read and checked, nor what is forgiven."""
        others = {"output", "work", "tolerance", "remote", "checksums", "recipe"} | (
            {"entries_per_task"} if self.shuffle == "global" else set()
        )
        return self.model_dump(mode="json", exclude=others) | {"recipe": self.recipe.meaning()}

    @pydantic.model_validator(mode="after")
    def _every_split_gets_jets(self) -> "PrepareConfig":
        _ = self.fractions
        return self
