"""Does a network that corrects constituents take back what pileup has put into them? One JSON object on the last line.

    python -m benchmarks.pileup PREDICTIONS NTUPLES [--tree AntiKt2EMTopoJets]

PREDICTIONS is the output of `distjet predict` in Parquet, of ntuples of `distjet simulate`, which know the share of each
cluster's energy that comes from pileup. Clusters of truth-matched jets with pT_true > 20 GeV, compared at the same energy and
|eta| of the cluster: in bins of both, and then averaged with the number of clusters.

- `mean_factor_hard`, `mean_factor_pileup`: energy factor of clusters with less than 20 % and with more than 80 % from pileup.
- `spearman`: rank correlation of factor and share.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import uproot
from numpy.typing import NDArray
from scipy.stats import spearmanr

from distjet.errors import UserError

ENERGY_EDGES_GEV = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 512)
ABS_ETA_EDGES = (0.0, 0.8, 1.3, 1.6, 2.1, 2.5)
MIN_CLUSTERS = 100
"Of both kinds, for a bin to count."

Clusters = tuple[NDArray[np.float64], ...]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("ntuples", type=Path)
    parser.add_argument("--tree", default="AntiKt2EMTopoJets")
    arguments = parser.parse_args()
    found = list(read(arguments.predictions, arguments.ntuples, arguments.tree))
    if not found:
        raise UserError(f"no file of {arguments.predictions} has a ROOT file of the same name in {arguments.ntuples}")
    sys.stdout.write(json.dumps(compare(tuple(np.concatenate(parts) for parts in zip(*found, strict=True)))) + "\n")


def read(predictions: Path, ntuples: Path, tree: str) -> Iterator[Clusters]:
    """Yield factor, share of pileup, energy (GeV) and |eta| of the clusters of each file."""
    for source in sorted(ntuples.glob("*/*.root")):
        path = predictions / source.parent.name / f"{source.stem}.parquet"
        if not path.is_file():
            continue
        table = pq.read_table(path)
        column = next(name for name in table.column_names if name.endswith("_constituent_factor"))
        factors = table[column].combine_chunks()
        branches = ("clus_fPU", "clus_E", "clus_eta")
        jets = uproot.open(source)[tree].arrays([*branches, "jet_isTruthMatched", "truthjet_pt"], library="np")
        counts = np.diff(factors.offsets.to_numpy())
        if not np.array_equal(counts, [len(values) for values in jets["clus_E"]]):
            raise UserError(f"{path} has other constituents than {source}")
        kept = np.repeat((jets["jet_isTruthMatched"] == 1) & (jets["truthjet_pt"] > 20), counts)
        share, energy, eta = (np.concatenate(jets[name]).astype(np.float64) for name in branches)
        yield factors.values.to_numpy().astype(np.float64)[kept], share[kept], energy[kept], np.abs(eta[kept])


def compare(clusters: Clusters) -> dict[str, float]:
    """Average over bins of energy and |eta| of the cluster."""
    factor, share, energy, eta = clusters
    place = np.digitize(energy, ENERGY_EDGES_GEV) * (len(ABS_ETA_EDGES) + 1) + np.digitize(eta, ABS_ETA_EDGES)
    rows = []
    for number in np.unique(place):
        here = place == number
        hard, soft = here & (share < 0.2), here & (share > 0.8)
        if min(hard.sum(), soft.sum()) >= MIN_CLUSTERS:
            rows.append((here.sum(), factor[hard].mean(), factor[soft].mean(), spearmanr(factor[here], share[here]).statistic))
    if not rows:
        raise UserError(f"no bin of energy and |eta| has {MIN_CLUSTERS} clusters of both kinds; simulate more events")
    weight, *columns = np.array(rows).T
    names = ("mean_factor_hard", "mean_factor_pileup", "spearman")
    means = {name: float(np.average(values, weights=weight)) for name, values in zip(names, columns, strict=True)}
    return means | {"num_clusters": int(weight.sum()), "num_bins": len(rows)}


if __name__ == "__main__":
    main()
