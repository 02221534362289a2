"""Which columns of a dataset does a calibration need, and which numbers come with them?"""

from collections.abc import Sequence

from torch import Tensor

from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError
from distjet.nn.four_vectors import rapidity_of

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


def _constant(manifest: Manifest, name: str) -> tuple[float, float]:
    found = manifest.statistics(name)
    return found["mean"], found["std"]
