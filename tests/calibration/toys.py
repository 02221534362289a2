"""Jets with a response that is known in closed form: what the chain must find, and what must be left when it is done."""

from dataclasses import dataclass

import numpy as np

ALPHA_GEV, BETA_GEV = 0.12, -0.06
WIDTH = 0.10
FRACTION_SLOPE, TRACKS_SLOPE = -0.08, -0.05
"Change of ln(response) per standard deviation of the two variables."


def true_response(energy_gev):
    """Rises with the energy, as that of a calorimeter that does not compensate."""
    return 1 - 0.45 * (energy_gev / 10) ** -0.2


def eta_bias(eta):
    """How far jets are reconstructed from their true direction."""
    return 0.02 * np.sin(2 * eta)


@dataclass(frozen=True)
class Switches:
    """What the toy detector does to a jet."""

    pileup: bool = True
    variables: bool = True
    direction: bool = True
    width: float = WIDTH


def toy_columns(num_jets: int, seed: int, switches: Switches | None = None) -> dict[str, np.ndarray]:
    """Make the columns of a dataset, float64, for jets of 12 to 2000 GeV at |eta| < 2.5, flat in ln pT."""
    on = switches or Switches()
    rng = np.random.default_rng(seed)
    true_pt = np.exp(rng.uniform(np.log(12), np.log(2000), num_jets))
    true_eta, true_phi = rng.uniform(-2.4, 2.4, num_jets), rng.uniform(-np.pi, np.pi, num_jets)
    true_mass = 0.1 * true_pt
    true_energy = np.hypot(true_pt * np.cosh(true_eta), true_mass)
    fraction, tracks = rng.normal(0.6, 0.1, num_jets), rng.poisson(12, num_jets).astype(float)
    shift = FRACTION_SLOPE * (fraction - 0.6) / 0.1 + TRACKS_SLOPE * (tracks - 12) / np.sqrt(12)
    response = true_response(true_energy) * np.exp(shift if on.variables else 0.0) * rng.normal(1, on.width, num_jets)
    response = np.maximum(response, 0.05)
    mu = rng.uniform(10, 70, num_jets)
    npv, area = 1.0 + rng.poisson(0.5 * mu), rng.normal(0.5, 0.02, num_jets)
    rho = np.maximum(0.3 * npv + rng.normal(0, 0.5, num_jets), 0)
    pt = response * true_pt
    pt = pt + (rho * area + ALPHA_GEV * (npv - 1) + BETA_GEV * mu if on.pileup else 0.0)
    energy, mass = np.hypot(pt * np.cosh(true_eta), 0.1 * pt), 0.1 * pt
    eta = true_eta + (eta_bias(true_eta) if on.direction else 0.0)
    pt = pt * np.cosh(true_eta) / np.cosh(eta)  # a wrong direction does not change the energy
    return {
        "jet_pt": pt, "jet_eta": eta, "jet_phi": true_phi, "jet_mass": mass, "jet_energy": energy,
        "true_pt": true_pt, "true_eta": true_eta, "true_phi": true_phi, "true_energy": true_energy, "true_mass": true_mass,
        "detector_eta": eta, "rho": rho, "area": area, "num_vertices": npv, "num_interactions": mu,
        "charged_fraction": fraction, "num_tracks": tracks,
    }  # fmt: skip
