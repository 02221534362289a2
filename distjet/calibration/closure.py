"""Does each step do what it is for, on jets that it was not fitted to?

Every number is measured before and after a step, on the validation split, in bins of the truth: the dependence on pileup in GeV
per vertex and per interaction; the response and its resolution; the direction; the dependence of the response on the variables
of the sequential steps. Records are plain dicts: what stands in metrics.json is what figures and report are made from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distjet.calibration.binning import Rows, equal_shares, measure, rows_by_bin
from distjet.calibration.chain import Chain
from distjet.calibration.jets import Array, CalibratedJets
from distjet.calibration.pileup import ResidualCorrection, fit_core_line, fit_slopes
from distjet.calibration.sample import Sample
from distjet.calibration.sequential import SequentialCorrection, values_of
from distjet.calibration.settings import ChainConfig, ResidualConfig, VariableConfig

Record = dict[str, Any]
Stages = Mapping[str, CalibratedJets]
"`raw` and each step's name, with the jets after it."

SLOPE_RANGE = {"max_abs_eta": 0.8, "pt_true_low_gev": 60.0, "pt_true_high_gev": 300.0}
"Jets for the dependence of the response on a variable in one number."

HEADLINE_RANGES = {"20_30": (20.0, 30.0), "30_60": (30.0, 60.0), "above_60": (60.0, np.inf)}
"Ranges of true pT (GeV) of the closure in one number."

X_BINS = 12
"Bins of a variable in which its closure is drawn."


def measure_closure(chain: Chain, stages: Stages, sample: Sample, config: ChainConfig) -> dict[str, Any]:
    """Measure every step.

    Args:
        chain: The fitted chain.
        stages: What it makes of the sample, step by step.
        sample: Jets that it was not fitted to.
        config: Bins and estimator.

    Returns:
        `response`: per stage the bins and headline numbers; `pileup`: per stage the slopes; `eta`: the direction before and
        after its step; `sequential`: per variable the dependence, and what the sequential steps change together.
    """
    content: dict[str, Any] = {"response": {name: _response(jets, sample, config) for name, jets in stages.items()}}
    if (residual := config.chain.residual) is not None and any(isinstance(step, ResidualCorrection) for step in chain.steps):
        content["pileup"] = {name: _pileup(stages[name], sample, residual, config) for name in pileup_stages(chain)}
    if "eta" in stages:
        content["eta"] = {name: _direction(stages[name], sample, config) for name in (stage_before("eta", stages), "eta")}
    variables = {step.variable: step for step in chain.steps if isinstance(step, SequentialCorrection)}
    if variables and config.chain.sequential is not None:
        wanted = config.chain.sequential.variables
        content["sequential"] = {
            "variables": {v.column: _variable(stages, sample, v, config) for v in wanted},
            **_sequential_change(content["response"], chain),
        }
    return content


def stage_before(name: str, stages: Mapping[str, Any]) -> str:
    """Name of the stage before one."""
    names = list(stages)
    return names[names.index(name) - 1]


def pileup_stages(chain: Chain) -> list[str]:
    """Stages whose dependence on pileup is of interest: raw, after each pileup step, and at the end."""
    names = ["raw", *(step.name for step in chain.steps if step.kind in ("area", "residual")), chain.step_names[-1]]
    return list(dict.fromkeys(names))


def _response(jets: CalibratedJets, sample: Sample, config: ChainConfig) -> Record:
    """Response E / E_true in bins of |eta_true| and pT_true, and headline numbers over the bins with enough jets."""
    values = jets.energy / sample["true_energy"]
    edges = (config.closure.abs_eta_edges, config.closure.pt_true_edges_gev)
    bins = _in_bins(values, np.abs(sample["true_eta"]), sample["true_pt"], edges, config)
    used = [record for record in bins if record["drawn"]]
    return {**headline(used), "bins": bins}


def headline(used: Sequence[Record]) -> Record:
    """Closure in ranges of true pT, and the mean resolution; None where there is no bin."""
    content: Record = {}
    for name, (low, high) in HEADLINE_RANGES.items():
        inside = [r for r in used if r["pt_true_low_gev"] >= low and r["pt_true_high_gev"] <= high]
        worst = max(inside, key=lambda r: abs(r["core"] - 1), default=None)
        content |= {
            f"max_abs_bias_{name}": abs(worst["core"] - 1) if worst else None,
            f"max_abs_bias_{name}_error": worst["core_error"] if worst else None,
            f"mean_abs_bias_{name}": float(np.mean([abs(r["core"] - 1) for r in inside])) if inside else None,
            f"num_bins_{name}": len(inside),
        }
    return content | {"mean_resolution": float(np.mean([r["resolution"] for r in used])) if used else None}


def _direction(jets: CalibratedJets, sample: Sample, config: ChainConfig) -> Record:
    """Residual sign(eta_det) (eta - eta_true) in bins of |eta_det| and pT_true."""
    eta = sample[config.chain.detector_eta]
    assert config.chain.eta is not None
    edges = (config.chain.eta.abs_eta_edges, config.chain.eta.pt_true_edges_gev)
    bins = _in_bins(np.sign(eta) * (jets.eta - sample["true_eta"]), np.abs(eta), sample["true_pt"], edges, config)
    worst = max((r for r in bins if r["drawn"]), key=lambda r: abs(r["core"]), default=None)
    return {
        "max_abs_shift": abs(worst["core"]) if worst else None,
        "max_abs_shift_error": worst["core_error"] if worst else None,
        "bins": bins,
    }


def _in_bins(
    values: Array, abs_eta: Array, pt_true: Array, edges: tuple[Sequence[float], Sequence[float]], config: ChainConfig
) -> list[Record]:
    """Measure the core in every bin with enough jets, which is then `drawn`; of the others, the number of jets is known."""
    records = []
    for eta_bin, in_eta in enumerate(rows_by_bin(abs_eta, edges[0])):
        for pt_bin, rows in enumerate(rows_by_bin(pt_true, edges[1], in_eta)):
            place = dict(zip(("abs_eta_low", "abs_eta_high"), edges[0][eta_bin : eta_bin + 2], strict=True))
            place |= dict(zip(("pt_true_low_gev", "pt_true_high_gev"), edges[1][pt_bin : pt_bin + 2], strict=True))
            drawn = len(rows) >= config.closure.min_entries
            record = {**place, "num_jets": len(rows), "drawn": drawn}
            numbers = _numbers(values[rows], config) | {"mean_pt_true_gev": float(pt_true[rows].mean())} if drawn else {}
            records.append(record | numbers)
    return records


def _numbers(values: Array, config: ChainConfig) -> Record:
    result = measure(values, config.estimator)
    assert result is not None, "a bin holds min_entries jets"
    return {
        "core": result.core.value,
        "core_error": result.core.error,
        "core_status": result.core_status,
        "median": result.median.value,
        "resolution": result.resolution.value,
        "resolution_error": result.resolution.error,
    }


def _pileup(jets: CalibratedJets, sample: Sample, residual: ResidualConfig, config: ChainConfig) -> Record:
    """Slopes of the pT in N_PV and mu, in bins of |eta_det| and of true pT."""
    offset, pt_true = jets.pt - sample["true_pt"], sample["true_pt"]
    vertices, interactions = sample[residual.num_vertices], sample[residual.num_interactions]
    abs_eta, pt_edges = np.abs(sample[config.chain.detector_eta]), config.closure.pileup_pt_true_edges_gev
    bins = []
    for eta_bin, in_eta in enumerate(rows_by_bin(abs_eta, residual.abs_eta_edges)):
        for pt_bin, rows in enumerate(rows_by_bin(pt_true, pt_edges, in_eta)):
            if len(rows) < max(config.closure.min_entries, residual.min_entries):
                continue
            pileup = vertices[rows], interactions[rows]
            slopes = fit_slopes(offset[rows], pt_true[rows], pileup, residual.window_sigmas)
            bins.append(
                {
                    "abs_eta_low": residual.abs_eta_edges[eta_bin],
                    "abs_eta_high": residual.abs_eta_edges[eta_bin + 1],
                    "pt_true_low_gev": pt_edges[pt_bin],
                    "pt_true_high_gev": pt_edges[pt_bin + 1],
                    "num_jets": slopes.num_jets,
                    "slope_npv_gev": slopes.alpha,
                    "slope_npv_gev_error": slopes.alpha_error,
                    "slope_mu_gev": slopes.beta,
                    "slope_mu_gev_error": slopes.beta_error,
                }
            )
    return {**_worst_slope(bins, "slope_npv_gev"), **_worst_slope(bins, "slope_mu_gev"), "bins": bins}


def _worst_slope(bins: Sequence[Record], key: str) -> Record:
    if not bins:
        return {f"max_abs_{key}": None, f"max_abs_{key}_error": None}
    worst = max(bins, key=lambda r: abs(r[key]))
    return {f"max_abs_{key}": abs(worst[key]), f"max_abs_{key}_error": worst[f"{key}_error"]}


def _variable(stages: Stages, sample: Sample, variable: VariableConfig, config: ChainConfig) -> Record:
    """Response against a variable before and after its own step, and at the end."""
    names = {"before": stage_before(variable.column, stages), "after": variable.column, "end": list(stages)[-1]}
    responses = {when: stages[name].energy / sample["true_energy"] for when, name in names.items()}
    covered = np.flatnonzero(np.abs(sample[config.chain.detector_eta]) < variable.max_abs_eta)
    x = values_of(variable.column, variable.is_share_of_pt, stages[names["before"]], sample.columns)
    edges = config.closure.pt_true_edges_gev
    bins = []
    for pt_bin, rows in enumerate(rows_by_bin(sample["true_pt"], edges, covered)):
        if len(rows) < 2 * config.closure.min_entries:
            continue
        place = {"pt_true_low_gev": edges[pt_bin], "pt_true_high_gev": edges[pt_bin + 1]}
        for share in equal_shares(x[rows], X_BINS, config.closure.min_entries):
            bins.append(place | _at_x(responses, x, rows[share], config))
    slopes = {f"slope_per_sd_{when}": _slope_per_sd(values, x, sample, config) for when, values in responses.items()}
    return {"max_abs_eta": variable.max_abs_eta, **slopes, "bins": bins}


def _at_x(responses: Mapping[str, Array], x: Array, rows: Rows, config: ChainConfig) -> Record:
    record: Record = {"mean_x": float(x[rows].mean()), "num_jets": len(rows)}
    for when, values in responses.items():
        result = measure(values[rows], config.estimator)
        assert result is not None, "a bin holds min_entries jets"
        record |= {f"core_{when}": result.core.value, f"core_{when}_error": result.core.error}
    return record


def _slope_per_sd(response: Array, x: Array, sample: Sample, config: ChainConfig) -> float | None:
    """Slope of the core of the response in a variable, per standard deviation of it; ln pT_true is taken out."""
    inside = np.abs(sample[config.chain.detector_eta]) < SLOPE_RANGE["max_abs_eta"]
    inside &= sample["true_pt"] >= SLOPE_RANGE["pt_true_low_gev"]
    inside &= sample["true_pt"] < SLOPE_RANGE["pt_true_high_gev"]
    chosen = x[inside]
    if len(chosen) < config.closure.min_entries or np.std(chosen) == 0:
        return None
    log_pt = np.log(sample["true_pt"][inside])
    design = np.stack([np.ones_like(chosen), (chosen - chosen.mean()) / chosen.std(), log_pt - log_pt.mean()], axis=1)
    return float(fit_core_line(design, response[inside], 2.0)[0][1])


def _sequential_change(response: Mapping[str, Record], chain: Chain) -> Record:
    """What the sequential steps change together, over the bins that hold enough jets.

    Before and after, the jets are the same, so the errors of the shifts are upper limits.
    """
    before, after = (response[name]["bins"] for name in (chain.before_sequential or "raw", chain.step_names[-1]))
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b["drawn"]]
    if not pairs:
        return {"num_bins": 0}
    shifts = np.array([a["core"] / b["core"] - 1 for b, a in pairs])
    errors = np.array([np.hypot(a["core_error"], b["core_error"]) / b["core"] for b, a in pairs])
    worst = int(np.argmax(np.abs(shifts)))
    gains = np.array([1 - a["resolution"] / b["resolution"] for b, a in pairs])
    return {
        "num_bins": len(pairs),
        "max_abs_shift": float(np.abs(shifts[worst])),
        "max_abs_shift_error": float(errors[worst]),
        "mean_shift": float(shifts.mean()),
        "mean_shift_error": float(np.sqrt(np.sum(errors**2))) / len(pairs),
        "mean_resolution_gain": float(gains.mean()),
        "min_resolution_gain": float(gains.min()),
        "max_resolution_gain": float(gains.max()),
    }
