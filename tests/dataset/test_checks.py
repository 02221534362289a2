"""Spec: a jet with an impossible number is quarantined with the column and the value; what a detector can measure passes."""

import json

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from distjet.dataset.checks import LISTED_JETS, SHORTFALL, falls_short
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.rounding import round_mantissa
from distjet.errors import DataError
from distjet.execution import in_process

RECIPE = {
    "tree": "tree",
    "constituents": {"px": "px", "py": "py", "pz": "pz", "energy": "e"},
    "jet": {"pt": "jet_pt", "eta": "jet_eta", "phi": "jet_phi", "energy": "jet_e"},
    "truth": {"pt": "true_pt", "eta": "true_eta", "phi": "true_phi", "energy": "true_e"},
    "nodes": [{"charge": "q"}],
    "graph": [{"area": "area"}],
}
components = st.floats(-1e4, 1e4, width=32)


def jets(num_jets: int = 20) -> dict:
    """Make jets of three massless constituents."""
    rng = np.random.default_rng(1)
    p3 = rng.normal(0, 1, (3, num_jets, 3)) + np.array([50, 5, 20])[:, None, None]
    energy = np.sqrt((p3**2).sum(axis=0))
    sums = p3.sum(axis=2)
    pt = np.hypot(*sums[:2])
    kinematics = {"pt": pt, "eta": np.arcsinh(sums[2] / pt), "phi": np.arctan2(sums[1], sums[0]), "e": energy.sum(axis=1)}
    lists = dict(zip(("px", "py", "pz"), p3, strict=True)) | {"e": energy, "q": rng.integers(-1, 2, energy.shape)}
    scalars = {f"{what}_{name}": array for what in ("jet", "true") for name, array in kinematics.items()} | {"area": pt / 100}
    return {name: array.astype(np.float32) for name, array in (lists | scalars).items()}


def convert(folder, arrays: dict, tolerance: float = 1.0, **changes) -> Manifest:
    """Write jets, prepare them, and return the manifest."""
    with uproot.recreate(folder / "a.root") as file:
        file["tree"] = {name: ak.from_regular(array) if array.ndim > 1 else array for name, array in arrays.items()}
    config = {"inputs": str(folder / "a.root"), "output": str(folder / "out"), "tolerance": {"max_row_fraction": tolerance}}
    prepare(PrepareConfig.model_validate(config | {"recipe": RECIPE | changes}), in_process)
    return Manifest.load(folder / "out")


def reasons(manifest: Manifest) -> dict[int, str]:
    lines = [json.loads(line) for line in (manifest.path / "quarantine.jsonl").read_text().splitlines()]
    return {line["entry"]: line["reason"] for line in lines}


def test_good_jets_pass(tmp_path):
    assert reasons(convert(tmp_path, jets(), ranges={"charge": [-1, 1], "area": [0, None]})) == {}


@pytest.mark.parametrize(("branch", "what"), [("e", "a constituent"), ("jet_e", "the jet"), ("true_e", "the reference jet")])
def test_an_energy_below_the_momentum_is_named_with_both(tmp_path, branch, what):
    arrays = jets()
    values = arrays[branch].reshape(20, -1)
    energy = values[7, -1].copy()
    values[7, -1] /= 2
    found = reasons(convert(tmp_path, arrays))
    momentum = energy if branch == "e" else arrays["jet_pt"][7] * np.cosh(arrays["jet_eta"][7])
    assert list(found) == [7]
    assert found[7].startswith(f"energy of {what} is below its momentum: ")
    numbers = [float(word) for word in found[7].split() if word[0].isdigit()]
    np.testing.assert_allclose(numbers, [energy / 2, momentum], rtol=1e-4)


def test_a_range_of_the_recipe_is_kept(tmp_path):
    arrays = jets()
    arrays["q"][3, 1], arrays["q"][5, 2], arrays["area"][9] = 1e9, -4, -0.5
    manifest = convert(tmp_path, arrays, ranges={"charge": [-1, 1], "area": [0, None]})
    assert reasons(manifest) == {
        3: "column 'charge' is beyond its range of -1 to 1: 1e+09",
        5: "column 'charge' is beyond its range of -1 to 1: -4",
        9: "column 'area' is beyond its range of 0 to inf: -0.5",
    }
    assert manifest.content["accounting"]["quarantined"] == 3
    assert manifest.content["accounting"]["rows"] == 17


def test_impossible_numbers_count_against_the_tolerance(tmp_path):
    arrays = jets()
    arrays["e"][7, 0] /= 2
    with pytest.raises(DataError, match=r"1 of 20 jets were quarantined, .* energy of a constituent is below its momentum"):
        convert(tmp_path, arrays, tolerance=0.0)


def test_a_jet_has_one_reason(tmp_path):
    arrays = jets()
    arrays["e"][7] = [np.nan, 1e-3, 1e-3]
    arrays["area"][7] = -1
    assert reasons(convert(tmp_path, arrays, ranges={"area": [0, None]})) == {7: "column 'energy' is not finite"}


def test_of_many_bad_jets_some_are_listed_and_all_are_counted(tmp_path):
    arrays = jets(3 * LISTED_JETS)
    arrays["e"][:200] /= 2
    arrays["area"][200:250] = -1
    arrays["q"][250:, 1] = np.nan
    arrays["q"][-1] = 0
    manifest = convert(tmp_path, arrays, ranges={"area": [0, None]})
    lines = [json.loads(line) for line in (manifest.path / "quarantine.jsonl").read_text().splitlines()]
    listed = [line["entry"] for line in lines if line["entry"] is not None]
    assert listed == [*range(LISTED_JETS), *range(200, 299)]
    (more,) = (line for line in lines if line["entry"] is None)
    assert more["file"] == str(tmp_path / "a.root")
    assert (more["reason"], more["more_jets"]) == ("energy of a constituent is below its momentum", 200 - LISTED_JETS)
    assert manifest.content["accounting"]["quarantined"] == len(listed) + more["more_jets"] == 299
    assert manifest.content["accounting"]["rows"] == 1


def test_more_constituents_than_edges_can_name(tmp_path):
    counts = np.array([65_535, 65_536, 2])
    size = counts.sum()
    lists = {"px": 1.0, "py": 0.0, "pz": 0.0, "e": 1.0}
    arrays = {name: ak.unflatten(np.full(size, value, np.float32), counts) for name, value in lists.items()}
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("tree", dict.fromkeys(arrays, "var * float32"))
        file["tree"].extend(arrays)
    config = {"inputs": str(tmp_path / "a.root"), "output": str(tmp_path / "out"), "tolerance": {"max_row_fraction": 1.0}}
    recipe = {"tree": "tree", "constituents": RECIPE["constituents"], "edges": "none", "nodes": ["pt"]}
    prepare(PrepareConfig.model_validate(config | {"recipe": recipe}), in_process)
    assert reasons(Manifest.load(tmp_path / "out")) == {1: "more than 65535 constituents: 65536"}


def test_ranges_belong_to_columns():
    with pytest.raises(ValueError, match="ranges: unknown column 'chrage', did you mean 'charge'"):
        PrepareConfig(inputs="a", output="b", recipe=RECIPE | {"ranges": {"chrage": [0, 1]}})
    with pytest.raises(ValueError, match=r"expected \[low, high\] \(got \[1, 0\]\)"):
        PrepareConfig(inputs="a", output="b", recipe=RECIPE | {"ranges": {"charge": [1, 0]}})


class TestShortfall:
    """Spec: what rounding does to a massless constituent passes; an energy that is 1 % short does not."""

    def massless(self, px, py, pz):
        p3 = [np.array([p], np.float32) for p in (px, py, pz)]
        return [*p3, np.sqrt(sum(p.astype(np.float64) ** 2 for p in p3)).astype(np.float32)]

    @given(components, components, components, st.integers(10, 23))
    def test_rounded_mantissas_pass(self, px, py, pz, bits):
        rounded = [round_mantissa(array, bits) for array in self.massless(px, py, pz)]
        assert not falls_short(*rounded, SHORTFALL)[0]

    @given(components, components, components)
    def test_numbers_of_any_size_pass(self, px, py, pz):
        for scale in (1e-45, 1e-38, 1e-20, 1e20, 1e30):
            with np.errstate(all="ignore"):
                assert not falls_short(*self.massless(px * scale, py * scale, pz * scale), SHORTFALL)[0]

    @given(st.floats(0.125, 1e4, width=32), components, components, st.sampled_from([-1, 1]))
    def test_one_percent_is_found_whatever_the_sign(self, px, py, pz, sign):
        px, py, pz, energy = self.massless(px, py, pz)
        assert falls_short(px, py, pz, np.float32(0.99 * sign) * energy, SHORTFALL)[0]
        assert not falls_short(px, py, pz, np.float32(sign) * energy, SHORTFALL)[0]
