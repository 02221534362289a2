"""Calibrate or tag jets with an exported network: `python FILE.py MODEL.onnx JETS.npz`. Needs numpy and onnxruntime alone."""

import sys

import numpy as np
import onnxruntime


def main(model: str, jets: str) -> None:
    """Predict and print."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = dict(np.load(jets))  # features as in the ntuple: their names and units are in the metadata
    names = [item.name for item in session.get_outputs()]
    found = dict(zip(names, session.run(names, inputs), strict=True))
    for key, value in session.get_modelmeta().custom_metadata_map.items():
        sys.stdout.write(f"{key}: {value}\n")
    for number, scores in enumerate(found.get("scores", ())):
        sys.stdout.write(f"jet {number}: scores {' '.join(f'{score:.4f}' for score in scores)}\n")
    for number, (energy, pt, mass) in enumerate(zip(*(found.get(name, ()) for name in ("energy", "pt", "mass")), strict=True)):
        sys.stdout.write(f"jet {number}: E = {energy:.2f} GeV, pT = {pt:.2f} GeV, m = {mass:.2f} GeV\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
