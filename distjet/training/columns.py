"""Which columns of a dataset does a calibration need, and which numbers come with them?"""

from collections.abc import Sequence

from torch import Tensor

from distjet.config import unknown
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError
from distjet.nn.four_vectors import rapidity_of
from distjet.nn.normalise import Standardise, Waves
from distjet.training.settings import TrainConfig

TARGETS = ("true_pt", "true_eta", "true_energy", "true_mass")

Features = dict[str, list[dict[str, str]]]
"Name, unit and formula of the columns that a model reads, by role: it is good for these and no others."

Constants = dict[str, list[tuple[float, float]]]
"Mean and deviation of each column that a model reads, by role."


def check_targets(manifest: Manifest) -> None:
    """Refuse a dataset without true jets.

    Raises:
        ConfigError: If it has none.
    """
    if missing := [name for name in TARGETS if name not in manifest.names("target")]:
        raise ConfigError(f"{manifest.path} has no column {missing}; the recipe must name the true jet under `targets`")


def true_observable(name: str, targets: dict[str, Tensor]) -> Tensor:
    """True energy (GeV), mass (GeV) or rapidity of each jet, shape (B,)."""
    if name == "rapidity":
        return rapidity_of(targets["true_pt"], targets["true_eta"], targets["true_mass"])
    return targets[f"true_{name}"]


def energy_range(manifest: Manifest) -> tuple[float, float]:
    """Lowest and highest true energy of the training split, GeV."""
    energies = manifest.statistics("true_energy")
    return float(energies["min"]), float(energies["max"])


def describe_columns(manifest: Manifest, names: Sequence[str]) -> list[dict[str, str]]:
    """Say what columns are."""
    return [{"name": c.name, "unit": c.unit, "formula": c.formula} for c in map(manifest.column, names)]


def constants(manifest: Manifest, features: Features) -> Constants:
    """Read the constants of the training split for the columns that a model reads."""
    return {role: [_constant(manifest, column["name"]) for column in columns] for role, columns in features.items()}


def standardise(
    config: TrainConfig, names: Sequence[str], scales: Sequence[tuple[float, float]], limit: float = 10.0
) -> Standardise:
    """Build what a network reads of features: standardised values, and waves of those that the configuration names."""
    waves = [
        Waves(place, wave.longest_period, wave.num_octaves)
        for place, name in enumerate(names)
        for wave in (config.fourier.get(name),)
        if wave
    ]
    return Standardise([mean for mean, _ in scales], [deviation for _, deviation in scales], limit, waves)


def check_fourier(config: TrainConfig, features: Features) -> None:
    """Refuse waves of columns that the model does not read.

    Raises:
        ConfigError: If there are any.
    """
    known = [column["name"] for columns in features.values() for column in columns]
    for name in config.fourier:
        if name not in known:
            raise ConfigError("fourier: " + unknown("feature of the model", name, known))


def _constant(manifest: Manifest, name: str) -> tuple[float, float]:
    found = manifest.statistics(name)
    return found["mean"], found["std"]
