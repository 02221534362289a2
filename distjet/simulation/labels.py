"""Which decay does a jet hold?

`truthjet_label` is one number per jet, for taggers of many classes, in trees of R >= 0.8. A jet that holds quarks of a decay is
named after the decay of which it holds the most; W bosons of top quarks count as their own where the b quark is outside. A jet
without such quarks is named after the hardest other parton in it, and its number is negative in an event that has decays: it is
the recoil of a signal process, which has another mixture of quarks and gluons than the background.

| number | name | the jet holds |
|---|---|---|
| 0 | none | no parton, or there is no truth jet |
| 1, 2, 3, 4 | QCD_light, QCD_c, QCD_b, QCD_g | a light quark, c, b or gluon as its hardest parton, and no quark of a decay |
| 9 | partial | quarks of a decay, in none of the following combinations |
| 10, 11 | W_qq, W_cq | both quarks of a W boson, without and with c |
| 20, 21, 22 | Z_qq, Z_cc, Z_bb | both quarks of a Z boson: light, c, b |
| 30, 31, 32 | H_qq, H_cc, H_bb | both quarks of a Higgs boson or of the particle of resonance_gun |
| 40, 41 | top_bqq, top_bcq | all three quarks of a top quark, without and with c |
| 42, 43 | top_bq, top_bc | the b quark and one of the two others |

After the classes of CMS's DeepAK8 (arXiv:2004.08262), from partons instead of hadrons.
"""

import numpy as np
from numpy.typing import NDArray

from distjet.physics.kinematics import pt, to_cylindrical
from distjet.simulation.generator import Events
from distjet.simulation.matching import Axes, hardest_parton, pairs_within

LABELS = {
    "none": 0,
    "QCD_light": 1,
    "QCD_c": 2,
    "QCD_b": 3,
    "QCD_g": 4,
    "partial": 9,
    "W_qq": 10,
    "W_cq": 11,
    "Z_qq": 20,
    "Z_cc": 21,
    "Z_bb": 22,
    "H_qq": 30,
    "H_cc": 31,
    "H_bb": 32,
    "top_bqq": 40,
    "top_bcq": 41,
    "top_bq": 42,
    "top_bc": 43,
}
"Values of the branch truthjet_label."

OF_PARTON = {1: "QCD_light", 2: "QCD_light", 3: "QCD_light", 4: "QCD_c", 5: "QCD_b", 21: "QCD_g"}
TOP, Z, W, HIGGS = 6, 23, 24, 25

Labels = NDArray[np.int32]


def jet_labels(jets: Axes, events: Events, distance: float, radius: float) -> Labels:
    """Name the decays in jets.

    Args:
        jets: Axes of the jets of a batch.
        events: The batch.
        distance: Quarks of a decay within this distance are in the jet.
        radius: Jet radius R, within which the hardest other parton is searched.

    Returns:
        Values of LABELS, negative for a recoil, shape (J,).
    """
    _, eta, phi_rad, _ = to_cylindrical(events.partons.p4)
    decays = _decays_in_jets(jets, Axes(eta, phi_rad, events.partons.offsets), events, distance)
    others = _other_partons(jets, events, radius)
    return np.where(decays != 0, decays, others)


def _decays_in_jets(jets: Axes, partons: Axes, events: Events, distance: float) -> Labels:
    pairs = pairs_within(jets, partons, distance)
    of_decay = events.origins.decay[pairs.right] >= 0
    jet, parton = pairs.left[of_decay], pairs.right[of_decay]
    groups, group = np.unique(np.stack([jet, events.origins.decay[parton]]), axis=1, return_inverse=True)
    flavour, heavy = np.abs(events.partons.pdg[parton]), np.zeros(groups.shape[1], np.int64)
    heavy[group] = events.origins.pdg[parton]
    number, num_b, num_c = (
        np.bincount(group[chosen], minlength=groups.shape[1]) for chosen in (flavour > 0, flavour == 5, flavour == 4)
    )
    found = decay_labels(heavy, number, num_b, num_c)
    labels = np.zeros(len(jets.eta), np.int32)
    fewest_first = np.lexsort((found, number))
    labels[groups[0, fewest_first]] = found[fewest_first]
    return labels


def decay_labels(
    heavy: NDArray[np.integer], number: NDArray[np.integer], num_b: NDArray[np.integer], num_c: NDArray[np.integer]
) -> Labels:
    """Name what a jet holds of a decay.

    Args:
        heavy: Identity of the heavy particle without sign, shape (G,).
        number: Quarks of the decay in the jet, shape (G,).
        num_b: How many of them are b, shape (G,).
        num_c: How many of them are c, shape (G,).

    Returns:
        Values of LABELS, shape (G,).
    """
    with_c, both = num_c > 0, number == 2
    with_b = (heavy == TOP) & (num_b > 0)
    boson = np.where((heavy == TOP) & ~with_b, W, heavy)
    flavour = np.where(num_b > 0, "bb", np.where(with_c, "cc", "qq"))
    names = np.full(len(heavy), "partial", "U9")
    for particle, prefix in ((Z, "Z_"), (HIGGS, "H_")):
        chosen = both & (boson == particle)
        names[chosen] = np.char.add(prefix, flavour[chosen])
    for chosen, plain, charmed in (
        (both & (boson == W), "W_qq", "W_cq"),
        (with_b & (number == 3), "top_bqq", "top_bcq"),
        (with_b & both, "top_bq", "top_bc"),
    ):
        names[chosen] = np.where(with_c[chosen], charmed, plain)
    return np.array([LABELS[name] for name in names.tolist()], np.int32)


def _other_partons(jets: Axes, events: Events, radius: float) -> Labels:
    """Name jets after their hardest parton that is of no decay; negative where the event has decays."""
    partons, decay = events.partons, events.origins.decay
    rows = np.flatnonzero(decay < 0)
    _, eta, phi_rad, _ = to_cylindrical(partons.p4[rows])
    axes = Axes(eta, phi_rad, np.searchsorted(rows, partons.offsets).astype(np.int64))
    flavour = hardest_parton(jets, axes, pt(partons.p4[rows]), partons.pdg[rows], radius)
    labels = np.array([LABELS[OF_PARTON.get(number, "none")] for number in flavour.tolist()], np.int32)
    has_decays = np.diff(np.searchsorted(np.flatnonzero(decay >= 0), partons.offsets)) > 0
    return np.where(np.repeat(has_decays, np.diff(jets.offsets)), -labels, labels)
