"""Configurations of `distjet predict` and `distjet export`; they import neither torch nor uproot."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from distjet.config import Config
from distjet.dataset.recipes.recipe import Inputs, Name, Remote, RemoteChoice
from distjet.storage import Location, Place


class EventJetsConfig(Config):
    """Jets that are found in events made of calibrated constituents, and compared with the jets of a dataset."""

    radius: float = Field(gt=0)
    "Of the anti-kT jets."
    dataset: Location
    "Jets of this radius, from the same events."
    splits: tuple[Literal["train", "val", "test"], ...] = Field(default=("test",), min_length=1)
    "Its jets that are looked for; a network that was trained on the same events knows those of `train`."
    min_pt_gev: float = Field(default=1.0, ge=0)
    "Calibrated jets below are not considered."


class PredictConfig(Config):
    """ROOT ntuples to calibrated jets and constituents, or to scores of a tagger, all jets in the order of the input."""

    run: Location
    "Output of `distjet train`, whatever the method."
    inputs: Inputs = Field(min_length=1)
    "Ntuples, named as for `distjet prepare`."
    output: Location
    "Folder of the predictions: one file for each input."
    format: Literal["parquet", "root"] = "parquet"
    """parquet: one row a jet. root: a friend tree with as many entries as the input, in its order; the reason why a jet is not
    calibrated is a number there, of which predictions.json has the text."""
    dataset: Location | None = None
    "Dataset whose recipe reads the ntuples; null: the one that the run was trained on."
    tree: str | None = None
    "Tree to read; null: the one of the recipe. Its branches must mean the same."
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]\w*$")] | None = None
    "Of the method: what the columns begin with, and the name of the friend tree; null: calibrated, or tagged."
    upto: str | None = None
    "Of a chain: the last step to apply; null: all."
    constituents: bool = True
    "Whether calibrated constituents are written, where the method has them."
    events: dict[Name, EventJetsConfig] = Field(default_factory=dict)
    """Jets of other radii, found in events made of the calibrated constituents: name -> radius and dataset. The tree must hold
    every constituent of an event once. Each gives the table NAME.parquet, for `distjet evaluate predictions=...`."""
    batch_size: int = Field(default=2048, ge=1)
    "Jets at a time in the network."
    entries_per_read: int = Field(default=20_000, ge=1)
    "Entries at a time in memory; changes nothing in the result."
    remote: RemoteChoice = Remote()
    "How URLs are read, as for `distjet prepare`."

    @model_validator(mode="after")
    def _events_need_constituents(self) -> "PredictConfig":
        if self.events and (self.format != "parquet" or not self.constituents):
            raise ValueError("events are made of the constituents in Parquet files: use format=parquet constituents=true")
        return self


class ExportConfig(Config):
    """A trained network to ONNX."""

    run: Location
    "Output of `distjet train`: a network, of constituents or of jets."
    output: Annotated[Path, Place()]
    "File to write, e.g. calibrator.onnx; an example of its use is written beside it."
    dataset: Location | None = None
    "Dataset of whose jets some are compared; null: the one that the run was trained on."
    split: Literal["train", "val", "test"] = "test"
    "Of the dataset."
    num_jets: int = Field(default=2000, ge=1)
    "Jets that are compared."
    tolerance: float = Field(default=1e-5, gt=0)
    """Largest difference between the exported and the trained network, in units of the jet's energy where it is one: what
    float32 leaves when sums are added in another order. Beyond it, nothing is written."""
