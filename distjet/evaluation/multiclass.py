"""How well are many classes told apart: accuracy, confusion, and every class against every other one?

The mean area of all pairs is that of Hand and Till (each score taken as it is), which the papers on JetClass quote. The matrix
of pairs uses the ratio of both scores, which is the best that a method knows about a pair.

References:
    D. Hand and R. Till, Machine Learning 45 (2001) 171.
    H. Qu et al., "Particle Transformer for Jet Tagging", arXiv:2202.03772.
"""

from itertools import permutations

import numpy as np

from distjet.evaluation.axes import Record
from distjet.evaluation.estimators import Measurement
from distjet.evaluation.score_tables import TaggedJets
from distjet.evaluation.tagging import Scores, area_under_curve, share_correct
from distjet.evaluation.tagging_config import DiscriminantConfig


def accuracy_of(jets: TaggedJets, method: str) -> Measurement:
    """Return the share of jets whose most probable class is their own."""
    return share_correct(jets.scores[method].argmax(axis=1) == jets.label, jets.weight)


def confusion_of(jets: TaggedJets, method: str) -> Record:
    """Return the matrix of true (rows) and most probable (columns) classes: numbers of jets, and shares of each row.

    A class without jets has no shares (None).
    """
    number = len(jets.classes)
    pairs = jets.label * number + jets.scores[method].argmax(axis=1)
    counts = np.bincount(pairs, minlength=number**2).reshape(number, number)
    weights = np.bincount(pairs, jets.weight, minlength=number**2).reshape(number, number)
    shares = [(row / row.sum()).tolist() if row.sum() > 0 else None for row in weights]
    return {"counts": counts.tolist(), "shares": shares}


def one_versus_one(jets: TaggedJets, method: str) -> Record:
    """Return the area under the curve of each pair of classes that have jets.

    Returns:
        `areas` and `errors`, one row a signal class, one column a background class, None on the diagonal; and `mean_area`, that
        of Hand and Till, with its error, as if pairs were independent.
    """
    number = len(jets.classes)
    areas: list[list[float | None]] = [[None] * number for _ in range(number)]
    errors: list[list[float | None]] = [[None] * number for _ in range(number)]
    plain: list[Measurement] = []
    present = np.flatnonzero(np.bincount(jets.label, jets.weight, number) > 0)
    for signal, background in permutations(present.tolist(), 2):
        pair = jets.select((jets.label == signal) | (jets.label == background))
        names = DiscriminantConfig(signal=(jets.classes[signal],), background=(jets.classes[background],))
        truth = pair.label == signal
        found = area_under_curve(Scores.of(pair.log_odds(method, names), truth, pair.weight))
        areas[signal][background], errors[signal][background] = found.value, found.error
        plain.append(area_under_curve(Scores.of(pair.scores[method][:, signal], truth, pair.weight)))
    mean = float(np.mean([some.value for some in plain])) if plain else None
    error = float(np.sqrt(np.sum([some.error**2 for some in plain])) / len(plain)) if plain else None
    return {"areas": areas, "errors": errors, "mean_area": mean, "mean_area_error": error}
