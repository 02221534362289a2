"""A score that depends on mass and pT becomes one that does not."""

import numpy as np
import pytest
from scipy.stats import norm

from distjet.errors import DataError
from distjet.evaluation.ddt import fit_map, flatness, halves, rho_of
from distjet.evaluation.tagging_config import DdtConfig

CONFIG = DdtConfig()
WANTED = CONFIG.background_efficiency


def background(num: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mass and pT of QCD jets, and where the score of each is centred: it rises with the mass and falls with the pT."""
    rng = np.random.default_rng(seed)
    pt = 500 + rng.exponential(100, num)
    mass = pt * rng.gamma(2.0, 0.06, num).clip(0.004, 0.6)
    return mass, pt, 0.5 * rho_of(mass, pt) - 2 * np.log(pt / 500)


def test_the_background_passes_everywhere_alike_in_the_half_that_made_no_map() -> None:
    """The exact quantile is known: the map adds little to the chi2 that it has by chance, and is near it everywhere."""
    found: dict[str, list[float]] = {"before": [], "after": [], "exact": []}
    for seed in range(3):
        mass, pt, centre = background(80_000, seed)
        score = centre + np.random.default_rng(100 + seed).normal(size=len(mass))
        first = np.arange(len(mass)) % 2 == 0
        made = fit_map(score[first], mass[first], pt[first], CONFIG, WANTED)
        cuts = {
            "before": score - np.quantile(score, 1 - WANTED),
            "after": made.transformed(score, mass, pt),
            "exact": score - centre - norm.isf(WANTED),
        }
        for name, values in cuts.items():
            flat = flatness(values[~first] >= 0, mass[~first], pt[~first], CONFIG, WANTED)
            found[name].append(flat["chi2"] / flat["ndf"])
        inside = ~first & (rho_of(mass, pt) > -8)
        error = made(rho_of(mass, pt), np.log(pt)) - centre - norm.isf(WANTED)
        assert np.abs(np.mean(error[inside])) < 0.03
        assert np.std(error[inside]) < 0.1
    assert np.mean(found["before"]) > 20
    assert np.mean(found["after"]) < 1.5
    assert np.mean(found["after"]) < np.mean(found["exact"]) + 0.5


def test_a_peak_in_the_mass_takes_fewer_neighbours() -> None:
    mass, pt, centre = background(40_000, 9)
    noise = np.random.default_rng(3).normal(size=len(mass))
    peak = 2.5 * np.exp(-(((mass - 140) / 45) ** 2)) + noise
    smooth, sharp = (fit_map(score, mass, pt, CONFIG, WANTED) for score in (centre + noise, peak))
    assert sharp.num_neighbours < smooth.num_neighbours
    other_mass, other_pt, _ = background(40_000, 10)
    other = 2.5 * np.exp(-(((other_mass - 140) / 45) ** 2)) + np.random.default_rng(4).normal(size=len(mass))
    passes = sharp.transformed(other, other_mass, other_pt) >= 0, other >= np.quantile(other, 1 - WANTED)
    after, before = (flatness(some, other_mass, other_pt, CONFIG, WANTED)["chi2"] for some in passes)
    assert after < before / 10


def test_cells_are_judged_by_jets_that_pass_and_chi2_is_that_of_binomials() -> None:
    """Jets that pass at random with the wanted probability have chi2 / ndf of about one."""
    mass, pt, _ = background(40_000, 3)
    values = []
    for seed in range(30):
        passes = np.random.default_rng(seed).uniform(size=len(mass)) < WANTED
        found = flatness(passes, mass, pt, DdtConfig(min_passed_flat=40), WANTED)
        values.append(found["chi2"] / found["ndf"])
        assert found["ndf"] == CONFIG.num_rho_cells * CONFIG.num_pt_cells
        assert found["max_deviation"] < 5 * found["max_deviation_error"]
    assert np.mean(values) == pytest.approx(1, abs=0.1)
    assert flatness(passes, mass, pt, DdtConfig(min_passed_flat=20_000), WANTED)["max_deviation"] is None


def test_halves_keep_events_together_and_are_halves_whatever_the_numbering() -> None:
    event = np.repeat(np.arange(10_000), 2)
    for step in (1, 2, 64, 1000):
        first = halves(event * step, np.full(len(event), 3))
        assert np.array_equal(first[::2], first[1::2])
        assert first.mean() == pytest.approx(0.5, abs=0.03)
        order = np.random.default_rng(0).permutation(len(event))
        assert np.array_equal(halves(event[order] * step, np.full(len(event), 3)), first[order])


def test_too_few_jets_for_a_quantile_are_said_so() -> None:
    mass, pt, score = background(500, 4)
    with pytest.raises(
        DataError, match=r"500 background jets do not tell which score 0\.01 of them exceed .* takes 2500 neighbours"
    ):
        fit_map(score, mass, pt, CONFIG, 0.01)
