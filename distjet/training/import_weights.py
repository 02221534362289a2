"""How do weights that others have trained become a run like any other?

A checkpoint of the authors' implementation is translated key by key and loaded strictly into our network; what comes out is the
directory of a finished training, which is evaluated, applied and exported as if it had been trained here.
"""

import logging
from pathlib import Path
from typing import Any

import torch
import xxhash
import yaml
from torch import Tensor, nn

from distjet.config import import_path
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError, DataError
from distjet.run_directory import claim, read_json, write_atomically, write_json
from distjet.training.checkpoint import CheckpointStore
from distjet.training.settings import METRICS_FILE, ImportConfig
from distjet.training.task import build_task

logger = logging.getLogger(__name__)

TRANSLATIONS = {
    **dict.fromkeys(("particle_net", "particle_net_lite"), "distjet.models.weaver_weights:particle_net_weights"),
    "particle_next": "distjet.models.weaver_next_weights:particle_next_weights",
    "particle_transformer": "distjet.models.weaver_next_weights:particle_transformer_weights",
    "lund_net": "distjet.models.lund_net:from_released",
    "lorentz_net": "distjet.models.lorentz_net:from_released",
}
"What translates the keys of the authors' implementation, by the name of our network."


def import_weights(config: ImportConfig) -> dict[str, Any]:
    """Make a finished run of a checkpoint.

    Args:
        config: The training that the weights are as if from: network, inputs, and a dataset with these inputs and classes.

    Returns:
        The content of the run's metrics.json.

    Raises:
        ConfigError: If nobody has published weights for the network in a known format, or the directory is another run's.
        DataError: If the file is no checkpoint, or does not fit the network.
    """
    if (translation := TRANSLATIONS.get(config.model.name)) is None:
        raise ConfigError(f"weights of {config.model.name!r} are in no known format; known are those of {sorted(TRANSLATIONS)}")
    manifest, data = Manifest.load(config.dataset), _read(config.weights)
    origin = {"name": config.weights.name, "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    claim(config.output, "train", config.identity(manifest.fingerprint) | {"imported": origin["xxh3_128"]})
    if (finished := config.output / METRICS_FILE).is_file():
        return read_json(finished)
    state = _decode(config.weights)
    task = build_task(config, manifest, torch.device("cpu"))
    model = task.build_model()
    _fill(model.network, import_path(translation)(state), config.weights)
    kept = {"model": model.state_dict(), "epoch": 0, "features": task.features}
    CheckpointStore(config.output / "checkpoints").save_best(kept, 0)
    training = config.model_dump(mode="json", exclude={"weights"})
    write_atomically(config.output / "config.yaml", yaml.safe_dump(training, sort_keys=False))
    metrics = {
        "status": "completed",
        "imported": origin,
        "best_epoch": 1,
        "best": {},
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dataset_fingerprint": manifest.fingerprint,
    }
    write_json(finished, metrics)
    return metrics


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    return path.read_bytes()


def _decode(path: Path) -> dict[str, Tensor]:
    """Read tensors alone: nothing in the file is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{path} holds no tensors that can be read without running its code: {error}") from error
    state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} is no checkpoint: expected tensors by name")
    return state


def _fill(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights strictly.

    Raises:
        DataError: If a weight is missing, left over, or of another shape.
    """
    ours = network.state_dict()
    shapes = {name: (tuple(weights[name].shape), tuple(ours[name].shape)) for name in ours.keys() & weights.keys()}
    problems = [f"{name} is missing" for name in sorted(ours.keys() - weights.keys())]
    problems += [f"{name} is of no use" for name in sorted(weights.keys() - ours.keys())]
    problems += [f"{name} has shape {theirs}, not {mine}" for name, (theirs, mine) in sorted(shapes.items()) if theirs != mine]
    if problems:
        raise DataError(f"{path} does not fit the network: {'; '.join(problems[:5])}{'; ...' if len(problems) > 5 else ''}")
    network.load_state_dict(weights)
