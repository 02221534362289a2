"""What do the named features mean, and how does a four-momentum follow from the components that a file has?

Everything is a line of the expression grammar, so each definition can be read, printed and tested like a user's own.
Energies, momenta and masses are in GeV, angles in radians.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Feature(NamedTuple):
    """A named feature."""

    formula: str
    unit: str
    description: str


FEATURES: Mapping[str, Feature] = {
    "log_energy": Feature("log(energy)", "ln(GeV)", "logarithm of the constituent's energy"),
    "log_pt": Feature("log(pt)", "ln(GeV)", "logarithm of the constituent's transverse momentum"),
    "delta_eta": Feature("eta - jet_eta", "", "pseudorapidity relative to the jet axis"),
    "delta_phi": Feature("wrap(phi - jet_phi)", "rad", "azimuth relative to the jet axis, in [-pi, pi)"),
    "delta_r": Feature("sqrt(delta_eta**2 + delta_phi**2)", "", "distance to the jet axis in (eta, phi)"),
    "log_energy_fraction": Feature("log(energy / jet_energy)", "", "logarithm of the constituent's share of the jet's energy"),
    "log_pt_fraction": Feature("log(pt / jet_pt)", "", "logarithm of the constituent's pT over the jet's pT"),
    "num_constituents": Feature("count(energy)", "", "number of constituents"),
    "log_jet_energy": Feature("log(jet_energy)", "ln(GeV)", "logarithm of the jet's energy"),
    "log_jet_pt": Feature("log(jet_pt)", "ln(GeV)", "logarithm of the jet's transverse momentum"),
    "abs_jet_eta": Feature("abs(jet_eta)", "", "absolute pseudorapidity of the jet"),
    "jet_rapidity": Feature("arcsinh(jet_pt * sinh(jet_eta) / sqrt(jet_pt**2 + jet_mass**2))", "", "rapidity of the jet"),
    "mass_over_energy": Feature("jet_mass / jet_energy", "", "mass of the jet over its energy"),
    "mass_over_pt": Feature("jet_mass / jet_pt", "", "mass of the jet over its transverse momentum"),
    "log_true_energy": Feature("log(true_energy)", "ln(GeV)", "logarithm of the reference jet's energy"),
    "energy_response": Feature("jet_energy / true_energy", "", "reconstructed over reference energy"),
    "mass_response": Feature("jet_mass / true_mass", "", "reconstructed over reference mass"),
    "truth_delta_r": Feature(
        "sqrt((true_eta - jet_eta)**2 + wrap(true_phi - jet_phi)**2)", "", "distance to the reference jet in (eta, phi)"
    ),
}

COMPONENTS: Mapping[str, tuple[str, str]] = {
    "px": ("GeV", "momentum, x"),
    "py": ("GeV", "momentum, y"),
    "pz": ("GeV", "momentum, z"),
    "energy": ("GeV", "energy"),
    "pt": ("GeV", "transverse momentum"),
    "eta": ("", "pseudorapidity"),
    "phi": ("rad", "azimuth"),
    "mass": ("GeV", "mass"),
}
"Unit and meaning of the components of a four-momentum."


def scaled(quantity: str, formula: str, gev: float) -> str:
    """Return a component in GeV (angles are left alone); `gev` is the file's unit in GeV."""
    if gev == 1 or quantity in ("eta", "phi"):
        return formula
    return f"({formula}) * {gev!r}"


def derived_components(given: set[str], prefix: str) -> dict[str, str]:
    """Define the components that are not given, in terms of those that are.

    Args:
        given: Components that the file has, a complete set of `distjet.dataset.recipes.recipe.FourMomentum`.
        prefix: Of the names, such as `jet_`.

    Returns:
        Name -> formula, in an order in which each formula uses only given or earlier names.
    """
    px, py, pz, energy, pt, eta, phi, mass = (prefix + name for name in COMPONENTS)
    momentum = f"{px}**2 + {py}**2 + {pz}**2"
    if "px" in given:
        rules = {"pt": f"sqrt({px}**2 + {py}**2)", "eta": f"arcsinh({pz} / {pt})", "phi": f"arctan2({py}, {px})"}
    else:
        size = f"sqrt(max({energy}**2 - {mass}**2, 0))" if "mass" in given else energy
        rules = {
            "pt": f"{size} / cosh({eta})",
            "px": f"{pt} * cos({phi})",
            "py": f"{pt} * sin({phi})",
            "pz": f"{pt} * sinh({eta})",
        }
    rules["energy"] = f"sqrt({momentum} + {mass}**2)" if "mass" in given else f"sqrt({momentum})"
    rules["mass"] = f"sqrt(max({energy}**2 - ({momentum}), 0))"
    return {prefix + name: formula for name, formula in rules.items() if name not in given}


def summed_components(prefix: str) -> dict[str, str]:
    """Define a jet as the sum of its constituents (E scheme)."""
    sums = {prefix + name: f"sum({name})" for name in ("px", "py", "pz", "energy")}
    return sums | derived_components({"px", "py", "pz", "energy"}, prefix)
