"""How does a dataset become a fitted chain with its proof?

Each step is fitted to the training split after the steps before it have been applied, then the whole chain is applied to the
validation split and every step is measured there. The run's directory has what every run has (identity, config.yaml,
metrics.json written last), so the same command again does nothing, and a run that was killed starts again: a fit takes minutes.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import yaml

import distjet
from distjet.calibration.binning import rows_by_bin
from distjet.calibration.chain import CHAIN_FILE, AnyStep, Chain
from distjet.calibration.closure import measure_closure
from distjet.calibration.curves import Fit
from distjet.calibration.figures import make_figures
from distjet.calibration.inversion import CurveFits, EnergyInversion, EtaCorrection, fit_energy, fit_eta
from distjet.calibration.jets import CalibratedJets, constituent_scale
from distjet.calibration.pileup import AreaSubtraction, ResidualCorrection, fit_residual
from distjet.calibration.report import render_report
from distjet.calibration.sample import Sample, read_sample
from distjet.calibration.sequential import fit_sequential, values_of
from distjet.calibration.settings import ChainConfig, VariableConfig
from distjet.calibration.steps import BinnedStep
from distjet.dataset.manifest import Manifest
from distjet.progress import bar
from distjet.provenance import git_commit
from distjet.run_directory import claim, read_json, write_atomically, write_json

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"

Fitted = tuple[AnyStep, dict[str, Any]]
"A step, and what is known about its fit."


def train_chain(config: ChainConfig) -> dict[str, Any]:
    """Fit a chain and measure it, or return the result of a finished run.

    Args:
        config: The chain.

    Returns:
        The content of the run's metrics.json.

    Raises:
        ConfigError: If the directory belongs to another run.
        DataError: If the dataset lacks a column, or no bin of a step has enough jets.
    """
    config = config.model_copy(update={"output": config.output.resolve(), "dataset": config.dataset.resolve()})
    manifest = Manifest.load(config.dataset)
    claim(config.output, "train", config.identity(manifest.fingerprint))
    if (finished := config.output / METRICS_FILE).is_file():
        logger.info("%s is finished; nothing to do", config.output)
        return read_json(finished)
    write_atomically(config.output / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    started = time.monotonic()
    train = read_sample(manifest, "train", config)
    steps, fits = fit_steps(train, config)
    seconds = time.monotonic() - started
    chain = Chain(dataset_fingerprint=manifest.fingerprint, steps=steps)
    chain.save(config.output / CHAIN_FILE)
    return _finish(chain, fits, manifest, config, {"train": train.accounting, "train_seconds": seconds})


def _finish(
    chain: Chain, fits: dict[str, Any], manifest: Manifest, config: ChainConfig, known: dict[str, Any]
) -> dict[str, Any]:
    """Measure the chain on the validation split; write figures, report and, last, the metrics."""
    val = read_sample(manifest, "val", config)
    logger.info("measuring the chain on %s jets of the validation split", f"{val.num_jets:,}")
    closure = measure_closure(chain, dict(chain.stages(val.columns)), val, config)
    metrics = {
        "status": "completed",
        "method": "chain",
        "steps": list(chain.step_names),
        "num_parameters": chain.num_parameters,
        "train_seconds": known["train_seconds"],
        "num_jets": {"train": known["train"], "val": val.accounting},
        "dataset_fingerprint": manifest.fingerprint,
        "fits": fits,
        "closure": closure,
        "provenance": _provenance(manifest, config),
    }
    plots = make_figures(closure, val.num_jets)
    for plot in plots:
        write_atomically(config.output / "plots" / f"{plot.name}.png", plot.png)
        write_atomically(config.output / "plots" / f"{plot.name}.pdf", plot.pdf)
    write_atomically(config.output / "report.html", render_report(metrics, plots, config))
    write_json(config.output / METRICS_FILE, metrics)
    return metrics


def _provenance(manifest: Manifest, config: ChainConfig) -> dict[str, Any]:
    return {
        "distjet_version": distjet.__version__,
        "git_commit": git_commit(),
        "dataset": str(manifest.path),
        "dataset_fingerprint": manifest.fingerprint,
        "prepare_seed": manifest.content["config"]["seed"],
        "configuration": config.model_dump(mode="json"),
    }


def fit_steps(sample: Sample, config: ChainConfig) -> tuple[tuple[AnyStep, ...], dict[str, Any]]:
    """Fit the steps in their order, each to jets that the ones before have corrected.

    Args:
        sample: Jets of the training split.
        config: The chain.

    Returns:
        The steps, and by their names what is known about their fits.

    Raises:
        DataError: If no bin of a step has enough jets.
    """
    logger.info("fitting the chain to %s jets of the training split", f"{sample.num_jets:,}")
    jets = constituent_scale(sample.columns)
    steps: list[AnyStep] = []
    fits: dict[str, Any] = {}
    plan = _plan(config)
    with bar("fit the chain", len(plan), unit="steps") as advance:
        for fit in plan:
            step, fits_of_step = fit(sample, jets)
            jets = step.apply(jets, sample.columns)
            steps.append(step)
            fits[step.name] = fits_of_step
            advance({"jets": sample.num_jets})
    return tuple(steps), fits


def _plan(config: ChainConfig) -> list[Callable[[Sample, CalibratedJets], Fitted]]:
    """List what fits each step, in the order of the steps."""
    chain = config.chain
    known = ((chain.area, _area), (chain.residual, _residual), (chain.energy, _energy), (chain.eta, _eta))
    plan = [partial(function, config) for part, function in known if part is not None]
    variables = chain.sequential.variables if chain.sequential is not None else ()
    return [*plan, *(partial(_variable, config, variable) for variable in variables)]


def _area(config: ChainConfig, sample: Sample, jets: CalibratedJets) -> Fitted:
    """Area subtraction has nothing to fit."""
    area = config.chain.area
    assert area is not None, "the plan has the step"
    step = AreaSubtraction(rho=area.rho, area=area.area, min_factor=config.chain.min_factor)
    return step, {"num_jets_at_min_factor": _count_limited(step, sample, jets)}


def _residual(config: ChainConfig, sample: Sample, jets: CalibratedJets) -> Fitted:
    residual, name = config.chain.residual, config.chain.detector_eta
    assert residual is not None, "the plan has the step"
    pileup = sample[residual.num_vertices], sample[residual.num_interactions]
    fit = fit_residual(jets, sample["true_pt"], sample[name], pileup, residual)
    step = ResidualCorrection(
        num_vertices=residual.num_vertices,
        num_interactions=residual.num_interactions,
        detector_eta=name,
        abs_eta_edges=residual.abs_eta_edges,
        alpha_gev=fit.alpha_gev,
        beta_gev=fit.beta_gev,
        min_factor=config.chain.min_factor,
    )
    slopes = [[{"mean_pt_true_gev": found.pt_true_gev, **asdict(found.slopes)} for found in bins] for bins in fit.bins]
    bins = _describe_bins(step, sample, fit.taken_from)
    bins = [bin_ | {"slopes": found} for bin_, found in zip(bins, slopes, strict=True)]
    return step, {"num_jets_at_min_factor": _count_limited(step, sample, jets), "bins": bins}


def _energy(config: ChainConfig, sample: Sample, jets: CalibratedJets) -> Fitted:
    energy, name = config.chain.energy, config.chain.detector_eta
    assert energy is not None, "the plan has the step"
    fits = fit_energy(jets, sample["true_energy"], sample[name], energy, config.estimator)
    step = EnergyInversion(detector_eta=name, abs_eta_edges=energy.abs_eta_edges, curves=fits.curves)
    return step, {"bins": _describe_curves(step, sample, fits)}


def _eta(config: ChainConfig, sample: Sample, jets: CalibratedJets) -> Fitted:
    eta, name = config.chain.eta, config.chain.detector_eta
    assert eta is not None, "the plan has the step"
    truth = sample["true_energy"], sample["true_eta"]
    fits = fit_eta(jets, truth, sample[name], eta, config.estimator)
    step = EtaCorrection(detector_eta=name, abs_eta_edges=eta.abs_eta_edges, curves=fits.curves)
    return step, {"bins": _describe_curves(step, sample, fits)}


def _variable(config: ChainConfig, variable: VariableConfig, sample: Sample, jets: CalibratedJets) -> Fitted:
    sequential, name = config.chain.sequential, config.chain.detector_eta
    assert sequential is not None, "the plan has the step"
    truth = sample["true_energy"], sample["true_pt"]
    place = sample[name], values_of(variable.column, variable.is_share_of_pt, jets, sample.columns)
    fit = fit_sequential(jets, truth, place, (sequential, variable, name), config.estimator)
    return fit.step, {"num_bins": fit.num_bins, "num_cells": fit.num_cells, "num_jets_left_as_they_are": fit.num_without}


def _count_limited(step: AreaSubtraction | ResidualCorrection, sample: Sample, jets: CalibratedJets) -> int:
    """Count the jets from which more would have been subtracted than is allowed."""
    factor = step.apply(jets, sample.columns).pt / jets.pt
    return int(np.sum(factor <= step.min_factor * (1 + 1e-9)))


def _describe_bins(step: BinnedStep, sample: Sample, taken_from: Sequence[int]) -> list[dict[str, Any]]:
    """Say for each bin of |eta_det| how many jets it holds and whose numbers it has; warn where they are not its own."""
    edges = step.abs_eta_edges
    counts = [len(rows) for rows in rows_by_bin(np.abs(sample[step.detector_eta]), edges)]
    for number, source in enumerate(taken_from):
        if source != number and counts[number]:
            place = (edges[number], step.detector_eta, edges[number + 1], counts[number], edges[source])
            logger.warning("%g <= |%s| < %g: too few jets (%d) for numbers of their own; those from %g on are used", *place)
    return [
        {"abs_eta_low": edges[n], "abs_eta_high": edges[n + 1], "num_jets": counts[n], "taken_from": source}
        for n, source in enumerate(taken_from)
    ]


def _describe_curves(step: EnergyInversion | EtaCorrection, sample: Sample, fits: CurveFits) -> list[dict[str, Any]]:
    bins = _describe_bins(step, sample, fits.taken_from)
    return [bin_ | _describe_fit(fit) for bin_, fit in zip(bins, fits.fits, strict=True)]


def _describe_fit(fit: Fit | None) -> dict[str, Any]:
    if fit is None:
        return {"num_points": 0}
    return {
        "num_points": len(fit.points.value),
        "num_points_without_core": fit.points.without_core,
        "degree": len(fit.curve.coefficients) - 1,
        "chi2": fit.chi2,
        "num_degrees_of_freedom": fit.num_degrees_of_freedom,
        "remark": fit.remark,
        "points": {
            "energy_gev": np.exp(fit.points.logarithm).tolist(),
            "value": fit.points.value.tolist(),
            "error": fit.points.error.tolist(),
            "num_jets": fit.points.num_jets.tolist(),
        },
    }
