"""Which rows tell what pileup, flavour, properties, fits, distributions and seeds say, topic by topic?"""

from collections.abc import Mapping
from typing import Any

from distjet.evaluation.seeds import LOSS, seed_text
from distjet.evaluation.tables import DASH, ETA, eta_range, number, percent, thousands

Table = tuple[tuple[str, ...], list[list[str]]]
"Head and rows."

MU = "\N{GREEK SMALL LETTER MU}"
CHI2 = "\N{GREEK SMALL LETTER CHI}\N{SUPERSCRIPT TWO}"
ROOT = "\N{SQUARE ROOT}"


def fit_table(metrics: Mapping[str, Any]) -> Table:
    """Noise, sampling and constant term of each method and |eta| bin, or why there are none."""
    header = ("method", f"|{ETA}|", "N [GeV]", f"S [{ROOT}GeV]", "C", f"{CHI2} / ndf", "p-value", "pT [GeV]", "remark")
    rows = []
    for method, fits in metrics.get("resolution_fit", {}).items():
        for fit in fits:
            if fit["status"] != "ok":
                rows.append([method, eta_range(fit), *[DASH] * 6, f"no fit: {fit['status']}"])
                continue
            terms = [_term(fit, name, digits) for name, digits in (("noise_gev", 2), ("sampling_sqrt_gev", 3), ("constant", 4))]
            goodness = [f"{fit['chi2']:.1f} / {fit['ndf']}", f"{fit['p_value']:.2g}"]
            rows.append([method, eta_range(fit), *terms, *goodness, _pt_range(fit), _remark(fit)])
    return header, rows


def pileup_table(metrics: Mapping[str, Any]) -> Table:
    """Slopes in N_PV and mu of each method and |eta| bin."""
    header = ("method", f"|{ETA}|", "jets", "slope in N_PV [GeV]", f"slope in {MU} [GeV]")
    rows = []
    for method, found in metrics.get("pileup", {}).items():
        for npv, mu in zip(found["by_eta_npv"], found["by_eta_mu"], strict=True):
            slopes = [
                number(some[key], some[f"{key}_error"], 4) for some, key in ((npv, "slope_npv_gev"), (mu, "slope_mu_gev"))
            ]
            rows.append([method, eta_range(npv), thousands(npv["num_jets"]), *slopes])
    return header, rows


def dependence_table(metrics: Mapping[str, Any]) -> Table:
    """Difference between quark and gluon jets, and the slope in each property, of each method."""
    properties, flavour = metrics.get("properties", {}), metrics.get("flavour", {})
    header = ["method"]
    header += ["quark less gluon (core)", "quark less gluon (median)", "bins"] if flavour else []
    header += [f"{kind} slope in {name.replace('_', ' ')} per sd" for name in properties for kind in ("worst", "mean |.|")]
    rows = []
    for method in metrics["methods"]:
        row = [method]
        if flavour:
            found = flavour[method]
            row += [percent(found[key], found[f"{key}_error"]) for key in ("mean_difference", "mean_difference_median")]
            row.append(str(found["num_bins"]))
        for found in (some[method] for some in properties.values()):
            row += [percent(found[key], found[f"{key}_error"]) for key in ("slope_per_sd", "mean_abs_slope_per_sd")]
        rows.append(row)
    return tuple(header), rows if properties or flavour else []


def density_table(metrics: Mapping[str, Any]) -> Table:
    """Uniformity and coverage of each method that predicts distributions."""
    header = (
        "method",
        "jets",
        "KS distance",
        "KS p-value",
        "jets in the test",
        "worst |coverage \N{MINUS SIGN} level|",
        "weights",
    )
    rows = [
        [
            method,
            thousands(found["num_jets"]),
            number(found["ks_distance"], digits=4),
            f"{found['ks_p_value']:.2g}",
            thousands(round(found["ks_num_jets"])),
            percent(found["max_abs_coverage_difference"]),
            "those of the training" if found["weighted"] else "none",
        ]
        for method, found in metrics.get("density", {}).items()
    ]
    return header, rows


def seed_table(found: Mapping[str, Any]) -> Table:
    """Loss beside closure of each training of a method."""
    header = (
        "training",
        "validation loss",
        "best epoch",
        "worst |closure|, 30\N{EN DASH}60 GeV",
        "mean |closure|, 30\N{EN DASH}60 GeV",
        "worst |closure|, > 60 GeV",
        "mean |closure|, > 60 GeV",
        "mean resolution",
    )
    names = [f"{kind}_abs_bias_{limits}" for limits in ("pt_30_60", "pt_above_60") for kind in ("max", "mean")]
    rows = [
        [
            seed_text(row, index),
            number(row.get(LOSS), digits=5),
            DASH if row.get("best_epoch") is None else str(row["best_epoch"]),
            *(percent(row[name]) for name in (*names, "mean_resolution")),
        ]
        for index, row in enumerate(found["members"], start=1)
    ]
    means = [percent(found["mean"][name], found["deviation"][name]) for name in (*names, "mean_resolution")]
    return header, [*rows, ["mean \N{PLUS-MINUS SIGN} standard deviation", DASH, DASH, *means]]


def seed_sentence(method: str, found: Mapping[str, Any]) -> str:
    """Say how much the responses of trainings with almost the same loss differ."""
    loss, scale = found["relative_loss_difference"], found["max_scale_difference"]
    losses = f"their validation losses differ by {100 * loss:.3g} %" if loss is not None else "their losses are not known"
    scales = f"the energy scale of one bin by up to {100 * scale:.2f} %" if scale is not None else "no bin has enough jets"
    return f"{method}, {len(found['members'])} trainings that differ in their seeds alone: {losses}, {scales}."


def _term(fit: Mapping[str, Any], name: str, digits: int) -> str:
    return "0" if name in fit["left_out"] else number(fit[name], fit[f"{name}_error"], digits)


def _pt_range(fit: Mapping[str, Any]) -> str:
    return f"{fit['pt_low_gev']:.0f}\N{EN DASH}{fit['pt_high_gev']:.0f}"


def _remark(fit: Mapping[str, Any]) -> str:
    letters = {"noise_gev": "N", "sampling_sqrt_gev": "S", "constant": "C"}
    left_out = ", ".join(letters[name] for name in fit["left_out"])
    return f"{left_out} left out: its square came out negative" if left_out else ""
