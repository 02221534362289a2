"""The training loop: steps, validation, checkpoints, and the way back after an interruption.

A step knows a model, a loss and a batch; it copies nothing to the host. Decisions that change control flow (stop, non-finite
loss, best epoch) are taken on numbers that all processes share. Random numbers come from a seed made of (seed, epoch, step,
rank), so a resumed run continues exactly where it was without storing a generator.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import UserError
from distjet.ranks import RankInfo
from distjet.run_directory import write_json
from distjet.training import parallel
from distjet.training.averaging import WeightAverage
from distjet.training.checkpoint import CheckpointStore, decode
from distjet.training.closure import ResponseHistogram
from distjet.training.history import History
from distjet.training.optim import build_optimizer, build_schedule
from distjet.training.progress import Progress, ProgressWriter
from distjet.training.settings import METRICS_FILE, TrainConfig
from distjet.training.task import CalibrationTask, feature_columns

logger = logging.getLogger(__name__)

CHECK_EVERY_STEPS = 20
"Steps between looks at the host: interruption, non-finite loss, progress."

Reporter = Callable[[dict[str, float]], None]


class Interrupted(Exception):
    """The run was asked to stop; its state is in a checkpoint."""


@dataclass
class EpochState:
    """Where the training is, and what it knows; all of it goes into a checkpoint."""

    epoch: int = 0
    best_value: float = math.inf
    best_epoch: int = -1
    sums: list[float] = field(default_factory=list)
    "Sums of loss terms and weights of the epoch under way; empty at its beginning."


class Trainer:
    """Trains one model in one process of a run."""

    def __init__(
        self,
        config: TrainConfig,
        ranks: RankInfo,
        device: torch.device,
        report: Reporter,
        should_stop: Callable[[], bool],
    ) -> None:
        """Build everything; nothing is read from the data yet.

        Args:
            config: The training; paths must be absolute where processes have other working directories.
            ranks: This process's place in the run.
            device: Where it computes.
            report: Called on every process with the metrics of each epoch.
            should_stop: Asked now and then on every process; any True stops all of them.
        """
        torch.manual_seed(config.seed)
        self.config, self.ranks, self.device, self.report, self.should_stop = config, ranks, device, report, should_stop
        manifest = Manifest.load(config.dataset)
        self.task = CalibrationTask(config, manifest, device)
        self.streams = {split: self._stream(manifest, split) for split in ("train", "val")}
        self.model = self.task.build_model()
        if config.compile:
            self.model.compile_network()
        self.averaged = self._averaged()
        self.parallel_model = parallel.wrap(self.model, ranks)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.schedule = build_schedule(self.optimizer, config.schedule, config.num_epochs * len(self.streams["train"]))
        self.store = CheckpointStore(config.output / "checkpoints")
        self.history = History(config.output)
        self.progress = ProgressWriter(config.output, ranks.is_main)
        self.state = EpochState()
        self.last_checkpoint_s = self.clock_s = time.monotonic()

    def fit(self) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint if there is one.

        Returns:
            On the main process the content of the run's metrics.json, elsewhere nothing.

        Raises:
            Interrupted: If the run was asked to stop.
        """
        self._resume()
        while self.state.epoch < self.config.num_epochs and not self._out_of_patience():
            started = time.monotonic()
            train_metrics = self._train_epoch()
            metrics = {"epoch": self.state.epoch + 1, **train_metrics, **self._validate()}
            metrics["epoch_seconds"] = time.monotonic() - started
            self._finish_epoch(metrics)
            self.report(metrics)
        return self._summary()

    # --- one epoch -------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> dict[str, float]:
        stream = self.streams["train"]
        self.parallel_model.train()
        sums = self._zeros()
        if self.state.sums and self.ranks.is_main:
            sums += torch.tensor(self.state.sums, dtype=torch.float64, device=self.device)
        first, started = stream.step, time.monotonic()
        self._start_clock()
        for batch in stream:
            self._seed(stream.epoch, stream.step)
            sums += self._step(batch.to(self.device))
            if stream.step % CHECK_EVERY_STEPS == 0 or stream.step == len(stream):
                seconds = time.monotonic() - started
                self._look(sums, stream, rate=(stream.step - first) * stream.mean_batch_size / max(seconds, 1e-9))
        self.state.sums = []
        self._stop_clock()
        return self._averages("train", sums)

    def _step(self, batch: GraphBatch) -> Tensor:
        """Make one step; return this process's sums of loss, terms and weights, and the norm of the gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            calibrated = self.parallel_model(batch)
        sums = self.task.loss(calibrated, batch)
        global_weight = parallel.all_reduce_sum(sums.weight.clone(), self.ranks)
        (sums.total * (self.ranks.world_size / global_weight)).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        if self.averaged is not None:
            self.averaged.update(self.model)
        return torch.cat([sums.total.detach()[None], sums.terms, sums.weight[None], norm[None]]).double()

    def _look(self, sums: Tensor, stream: JetStream, rate: float) -> None:
        """Everything that makes the host wait for the device."""
        total, norm = parallel.all_reduce_sum(sums[[0, -1]].clone(), self.ranks).tolist()
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise UserError(
                f"the loss or its gradient is not finite (sums {total:g}, {norm:g}) in epoch {stream.epoch + 1} between steps "
                f"{max(stream.step - CHECK_EVERY_STEPS, 0)} and {stream.step}; lower optimizer.lr, or look for extreme inputs "
                "in the dataset"
            )
        if self.progress.due():
            lr = self.optimizer.param_groups[0]["lr"]
            position = (stream.epoch + 1, self.config.num_epochs, stream.step, len(stream))
            self.progress.write(Progress(*position, round(stream.mean_batch_size), rate, lr))
        overdue = time.monotonic() - self.last_checkpoint_s > 60 * self.config.checkpoint_minutes
        stop = parallel.agree(self.should_stop(), self.device, self.ranks)
        if stop or parallel.agree(overdue, self.device, self.ranks):
            self.state.sums = parallel.all_reduce_sum(sums.clone(), self.ranks).tolist()
            self._stop_clock()
            self._save()
            self._start_clock()
        if stop:
            raise Interrupted(f"stopped in epoch {stream.epoch + 1} after step {stream.step} of {len(stream)}")

    def _validate(self) -> dict[str, float]:
        model = self.averaged.module if self.averaged is not None else self.model
        model.eval()
        sums = self._zeros()
        histogram = ResponseHistogram(self.config.closure, self.task.energy_range_gev, self.device)
        with torch.no_grad():
            for batch in self.streams["val"]:
                on_device = batch.to(self.device)
                with self._autocast():
                    calibrated = model(on_device)
                loss = self.task.loss(calibrated, on_device)
                sums[:-1] += torch.cat([loss.total[None], loss.terms, loss.weight[None]]).double()
                self.task.observe(histogram, calibrated, on_device)
        closure = {f"val_{name}": value for name, value in histogram.closure(self.ranks).items()}
        return self._averages("val", sums) | closure

    def _finish_epoch(self, metrics: dict[str, float]) -> None:
        """Decide whether this is the best epoch, on the main process's numbers, and write everything down."""
        value = parallel.broadcast_main(metrics[f"val_{self.config.selection.metric}"], self.device, self.ranks)
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(value)
        if value < self.state.best_value:
            self.state.best_value, self.state.best_epoch = value, self.state.epoch
            if self.ranks.is_main:
                self.store.save_best(self._kept(), self.state.epoch)
        self.state.epoch += 1
        if self.ranks.is_main:
            self.history.append(metrics | {"learning_rate": self.optimizer.param_groups[0]["lr"]})
        self._save()
        if self.ranks.is_main:
            self.store.forget_best_except(self.state.best_epoch)

    # --- state -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.ranks.is_main:
            stream = self.streams["train"]
            self.store.save(self.state_dict(), stream.epoch, stream.step)
        self.last_checkpoint_s = time.monotonic()
        parallel.barrier(self.ranks)

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to continue."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "stream": self.streams["train"].state_dict(),
            "state": vars(self.state),
            "seconds": self.history.seconds,
        }

    def _resume(self) -> None:
        """Continue from the checkpoint that the main process finds: no other process chooses one of its own."""
        data = parallel.broadcast_bytes(self.store.newest() if self.ranks.is_main else None, self.device, self.ranks)
        if data is None:
            return
        saved = decode(data)
        self.model.load_state_dict(saved["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.streams["train"].load_state_dict(saved["stream"])
        self.state = EpochState(**saved["state"])
        self.history.seconds = saved["seconds"]
        if self.ranks.is_main:
            self.history.forget_after(self.state.epoch)
        logger.info("resuming in epoch %d at step %d", self.state.epoch + 1, self.streams["train"].step)

    def _summary(self) -> dict[str, Any]:
        if not self.ranks.is_main:
            return {}
        metrics = {
            "status": "completed",
            "num_epochs": self.state.epoch,
            "best_epoch": self.state.best_epoch + 1,
            "selection_metric": self.config.selection.metric,
            "best": self.history.rows()[self.state.best_epoch],
            "last": self.history.last(),
            "num_parameters": sum(p.numel() for p in self.model.parameters()),
            "num_workers": self.ranks.world_size,
            "train_seconds": self.history.seconds,
            "dataset_fingerprint": self.task.manifest.fingerprint,
        }
        write_json(self.config.output / METRICS_FILE, metrics)
        return metrics

    # --- parts -----------------------------------------------------------------------------------------------------

    def _stream(self, manifest: Manifest, split: str) -> JetStream:
        config = self.config
        sizes = {"batch_size": config.batch_size, "max_nodes": config.max_nodes}
        return JetStream(
            manifest,
            split,
            StreamConfig(**sizes, shuffle=split == "train", **config.stream.model_dump()),
            seed=config.seed,
            ranks=self.ranks,
            pin_memory=self.device.type == "cuda",
        )

    def _averaged(self) -> WeightAverage | None:
        return WeightAverage(self.model, self.config.ema_decay) if self.config.ema_decay else None

    def _kept(self) -> dict[str, Any]:
        """What inference needs of this run: the weights, and the features that they are for."""
        model = self.averaged.module if self.averaged is not None else self.model
        return {"model": model.state_dict(), "epoch": self.state.epoch, "features": feature_columns(self.task.manifest)}

    def _zeros(self) -> Tensor:
        """Sums of an epoch: loss, each term, weights, gradient norms."""
        return torch.zeros(len(self.task.terms) + 3, dtype=torch.float64, device=self.device)

    def _start_clock(self) -> None:
        self.clock_s = time.monotonic()

    def _stop_clock(self) -> None:
        self.history.add_time(time.monotonic() - self.clock_s)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _averages(self, prefix: str, sums: Tensor) -> dict[str, float]:
        loss, *terms, weight, _ = parallel.all_reduce_sum(sums.clone(), self.ranks).tolist()
        if not math.isfinite(loss):
            raise UserError(f"the loss on the {prefix} split is {loss} in epoch {self.state.epoch + 1}; lower optimizer.lr")
        named = {f"{prefix}_loss_{t.observable}": v / weight for t, v in zip(self.task.terms, terms, strict=True)}
        return {f"{prefix}_loss": loss / weight, **named}

    def _seed(self, epoch: int, step: int) -> None:
        key = (self.config.seed, epoch, step, self.ranks.world_rank)
        torch.manual_seed(hash(key) % 2**63)

    def _out_of_patience(self) -> bool:
        patience = self.config.selection.patience
        return patience is not None and self.state.epoch - 1 - self.state.best_epoch >= patience
