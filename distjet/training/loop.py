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
from distjet.errors import NonFiniteError, UserError
from distjet.ranks import RankInfo
from distjet.run_directory import write_json
from distjet.training import parallel
from distjet.training.averaging import WeightAverage
from distjet.training.checkpoint import CheckpointStore, decode
from distjet.training.diagnosis import Suspects
from distjet.training.history import History
from distjet.training.memory import naming_a_lack_of_memory
from distjet.training.meter import Meter, Publish
from distjet.training.optim import build_optimizer, build_schedule
from distjet.training.progress import Progress, ProgressWriter
from distjet.training.settings import METRICS_FILE, TrainConfig
from distjet.training.task import build_task

logger = logging.getLogger(__name__)

CHECK_EVERY_STEPS, CHECK_EVERY_S = 20, 2.0
"Most steps between looks at the host (interruption, non-finite loss, progress), and seconds, where steps are slow."

Reporter = Callable[[dict[str, float]], None]


def steps_between_looks(step_s: float) -> int:
    """Return after how many steps to look again, for the time of a step."""
    return max(1, min(CHECK_EVERY_STEPS, int(CHECK_EVERY_S / step_s)))


class Interrupted(Exception):
    """The run was asked to stop; its state is in a checkpoint."""


@dataclass
class EpochState:
    """Where the training is, and what it knows; all of it goes into a checkpoint."""

    epoch: int = 0
    best_value: float = math.inf
    "What the selection metric costs, of which less is better."
    best_epoch: int = -1
    sums: list[float] = field(default_factory=list)
    "Sums of loss terms and weights of the epoch under way, over all processes; empty at its beginning."


class Trainer:
    """Trains one model in one process of a run."""

    def __init__(
        self,
        config: TrainConfig,
        ranks: RankInfo,
        device: torch.device,
        report: Reporter,
        should_stop: Callable[[], bool],
        at: Callable[[int, int, str], None] = lambda epoch, step, doing: None,
        publish: Publish | None = None,
    ) -> None:
        """Build everything; nothing is read from the data yet.

        Args:
            config: The training; paths must be absolute where processes have other working directories.
            ranks: This process's place in the run.
            device: Where it computes.
            report: Called on every process with the metrics of each epoch.
            should_stop: Asked now and then on every process; any True stops all of them.
            at: Told where the training is: the epoch, its step (from 1), and what is done there.
            publish: Told now and then on every process how it goes there.
        """
        torch.manual_seed(config.seed)
        self.config, self.ranks, self.device = config, ranks, device
        self.report, self.should_stop, self.at, self.publish = report, should_stop, at, publish
        manifest = Manifest.load(config.dataset)
        self.task = build_task(config, manifest, device, ranks)
        with naming_a_lack_of_memory(lambda: "the weights of the model"):
            self.model = self.task.build_model()
        self.streams = {split: self._stream(manifest, split) for split in ("train", "val")}
        if config.compile:
            self.model.compile_network()
        self.averaged = self._averaged()
        self.parallel_model = parallel.wrap(self.model, ranks)
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.schedule = build_schedule(self.optimizer, config.schedule, config.num_epochs * len(self.streams["train"]))
        self.store = CheckpointStore(config.output / "checkpoints")
        self.history = History(config.output)
        self.progress = ProgressWriter(config.output, ranks.is_main)
        self.meter = Meter(self.streams["train"], device)
        self.suspects = Suspects(self.streams["train"])
        self.place = "the beginning"
        self.seconds_between_epochs = 0.0
        self.state = EpochState()
        self.last_checkpoint_s = self.clock_s = time.monotonic()

    def fit(self) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint if there is one.

        Returns:
            On the main process the content of the run's metrics.json, elsewhere nothing.

        Raises:
            Interrupted: If the run was asked to stop.
        """
        with naming_a_lack_of_memory(lambda: self.place):
            self._resume()
            self._fit()
        return self._summary()

    def _fit(self) -> None:
        while self.state.epoch < self.config.num_epochs and not self._out_of_patience():
            started = time.monotonic()
            train_metrics = self._train_epoch()
            trained = time.monotonic()
            metrics = {"epoch": self.state.epoch + 1, **train_metrics, **self._validate()}
            metrics["epoch_seconds"] = time.monotonic() - started
            self._finish_epoch(metrics)
            self.report(metrics)
            self.seconds_between_epochs = time.monotonic() - trained

    # --- one epoch -------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> dict[str, float]:
        stream = self.streams["train"]
        self.parallel_model.train()
        self.task.begin_epoch(self.model, self._progress)
        sums = self._zeros()
        if self.state.sums and self.ranks.is_main:
            sums += torch.tensor(self.state.sums, dtype=torch.float64, device=self.device)
        self.meter.start()
        self._start_clock()
        next_look = stream.step + 1
        for batch in stream if stream.epoch == self.state.epoch else ():  # else it was stopped in its validation
            self._enter(stream, batch, "makes a step")
            self._seed(stream.epoch, stream.step)
            sums += self._step(batch.to(self.device))
            if stream.step >= next_look or stream.step == len(stream):
                next_look = stream.step + self._look(sums, stream)
            self.at(stream.epoch + 1, stream.step + 1, "waits for a batch")
        self._stop_clock()
        self.state.sums = parallel.all_reduce_sum(sums, self.ranks).tolist()
        return self._averages("train", self.state.sums) | self._speed()

    def _step(self, batch: GraphBatch) -> Tensor:
        """Make one step; return this process's sums of loss, terms and weights, and the norm of the gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            outputs = self.parallel_model(batch)
        sums = self.task.loss(outputs, batch, self._progress)
        global_weight = parallel.all_reduce_sum(sums.weight.clone(), self.ranks)
        scale = (self.ranks.world_size / global_weight).masked_fill(global_weight == 0, 0.0)  # such jets teach nothing
        (sums.total * scale).backward()
        norm = self.model.clip_gradients(self.config.optimizer.clip_norm)
        self.optimizer.step()
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        if self.averaged is not None:
            self.averaged.update(self.model)
        self.suspects.note(sums.graphs, norm, global_weight)
        return torch.cat([sums.total.detach()[None], sums.terms, sums.weight[None], norm[None]]).double()

    def _look(self, sums: Tensor, stream: JetStream) -> int:
        """Everything that makes the host wait for the device; return after how many steps to look again."""
        total, weight, norm = parallel.all_reduce_sum(sums[[0, -2, -1]].clone(), self.ranks).tolist()
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise NonFiniteError(self.suspects.explain(stream.epoch, self.device, self.ranks))
        self.suspects.forget()
        is_late = time.monotonic() - self.last_checkpoint_s > 60 * self.config.checkpoint_minutes
        mine = (self.should_stop(), is_late, self.meter.stall_fraction, self.meter.gpu_memory_gib, self.meter.seconds_per_step)
        stop, overdue, stall, memory, step_s = parallel.largest(mine, self.device, self.ranks)
        loss = total / weight if weight else 0.0
        if self.progress.due(at_end=stream.step == len(stream)):
            self.progress.write(self._moment(stream, loss, stall, memory))
        if self.publish is not None:
            self.publish(vars(stream.counters), self._numbers(stream, loss))
        if stop or overdue:
            self.state.sums = parallel.all_reduce_sum(sums.clone(), self.ranks).tolist()
            self._stop_clock()
            self._save()
            self._start_clock()
        if stop:
            raise Interrupted(f"stopped in epoch {stream.epoch + 1} after step {stream.step} of {len(stream)}")
        return steps_between_looks(step_s)

    def _moment(self, stream: JetStream, loss: float, stall: float, memory: float) -> Progress:
        """Say where the training is; called on the main process alone."""
        epochs_left, rate = self.config.num_epochs - stream.epoch, self.meter.jets_per_s
        jets_left = (epochs_left * len(stream) - stream.step) * stream.mean_batch_size
        return Progress(
            epoch=stream.epoch + 1,
            num_epochs=self.config.num_epochs,
            step=stream.step,
            num_steps=len(stream),
            batch_size=round(stream.mean_batch_size),
            graphs_per_s=rate,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            loss=loss,
            best=self.config.selection.cost(self.state.best_value) if math.isfinite(self.state.best_value) else None,
            metric=self.config.selection.watched.removeprefix("val_"),
            seconds_left=jets_left / rate + epochs_left * self.seconds_between_epochs,
            stall_fraction=stall,
            gpu_memory_gib=memory if self.device.type == "cuda" else None,
            gpu_utilisation=self.meter.gpu_utilisation(),
            updated_s=time.time(),
        )

    def _numbers(self, stream: JetStream, loss: float) -> dict[str, float]:
        """What is of interest at this moment of this process, for those who compare processes."""
        position = {"epoch": stream.epoch + 1, "step": stream.step, "loss": loss}
        speed = {"jets_per_s": self.meter.jets_per_s, "stall_fraction": self.meter.stall_fraction}
        return position | speed | ({"gpu_memory_gib": self.meter.gpu_memory_gib} if self.device.type == "cuda" else {})

    def _speed(self) -> dict[str, float]:
        """How fast the epoch was: of all processes together, and of the one that waited or needed most.

        Nothing of an epoch whose last step was made before an interruption.
        """
        if self.meter.num_steps == 0:
            return {}
        readings = (self.meter.stall_fraction, self.meter.gpu_memory_gib)
        stall, memory = parallel.largest(readings, self.device, self.ranks)
        speed = {"jets_per_s": self.meter.jets_per_s, "stall_fraction": stall}
        return speed | ({"gpu_memory_gib": memory} if self.device.type == "cuda" else {})

    def _validate(self) -> dict[str, float]:
        model = self.averaged.module if self.averaged is not None else self.model
        parallel.share_buffers(model, self.ranks)
        model.eval()
        sums, stream = self._zeros(), self.streams["val"]
        watch = self.task.watch()
        suspects, no_gradient = Suspects(stream), torch.zeros((), device=self.device)
        started, next_look = time.monotonic(), 1
        with torch.no_grad():
            for batch in stream:
                self._enter(stream, batch, "validates")
                on_device = batch.to(self.device)
                with self._autocast():
                    outputs = model(on_device)
                loss = self.task.loss(outputs, on_device, self._progress)
                sums[:-1] += torch.cat([loss.total[None], loss.terms, loss.weight[None]]).double()
                suspects.note(loss.graphs, no_gradient)
                watch.observe(outputs, on_device)
                if stream.step >= next_look:
                    next_look = stream.step + self._stop_if_asked((time.monotonic() - started) / stream.step)
        everyone = parallel.all_reduce_sum(sums, self.ranks).tolist()
        if not math.isfinite(everyone[0]):
            raise NonFiniteError(suspects.explain(stream.epoch - 1, self.device, self.ranks))
        watched = {f"val_{name}": value for name, value in watch.metrics(self.ranks).items()}
        return self._averages("val", everyone) | watched

    def _stop_if_asked(self, step_s: float) -> int:
        """Stop within a validation, which is made anew when the training goes on; else return when to look again."""
        stop, longest_s = parallel.largest((self.should_stop(), step_s), self.device, self.ranks)
        if stop:
            self._save()
            raise Interrupted(f"stopped in the validation of epoch {self.state.epoch + 1}")
        return steps_between_looks(longest_s)

    def _finish_epoch(self, metrics: dict[str, float]) -> None:
        """Decide whether this is the best epoch, on the main process's numbers, and write everything down."""
        selection = self.config.selection
        value = selection.cost(parallel.broadcast_main(metrics[selection.watched], self.device, self.ranks))
        if isinstance(self.schedule, ReduceLROnPlateau):
            by_loss = self.config.schedule.plateau_metric == "loss"
            self.schedule.step(parallel.broadcast_main(metrics["val_loss"], self.device, self.ranks) if by_loss else value)
        if value < self.state.best_value or selection.metric == "last":
            self.state.best_value, self.state.best_epoch = value, self.state.epoch
            if self.ranks.is_main:
                self.store.save_best(self._kept(), self.state.epoch)
        self.state.epoch += 1
        self.state.sums = []
        if self.ranks.is_main:
            self.history.append(metrics | {"learning_rate": self.optimizer.param_groups[0]["lr"]})
        self._save()

    # --- state -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.ranks.is_main:
            stream = self.streams["train"]
            self.store.save(self.state_dict(), stream.epoch, stream.step, self.state.best_epoch)
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
            "best": self.history.of_epoch(self.state.best_epoch + 1),
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
            StreamConfig(**sizes, row_columns=self.task.row_columns, shuffle=split == "train", **config.stream.model_dump()),
            seed=config.seed,
            ranks=self.ranks,
            pin_memory=self.device.type == "cuda",
            finish=self.task.on_host(self.model, split),
        )

    @property
    def _progress(self) -> float:
        """Part of the epochs that is done: the same for all steps of an epoch, and after a resume."""
        return self.state.epoch / self.config.num_epochs

    def _averaged(self) -> WeightAverage | None:
        return WeightAverage(self.model, self.config.ema_decay) if self.config.ema_decay else None

    def _kept(self) -> dict[str, Any]:
        """What inference needs of this run: the weights, and the features that they are for."""
        model = self.averaged.module if self.averaged is not None else self.model
        return {"model": model.state_dict(), "epoch": self.state.epoch, "features": self.task.features}

    def _zeros(self) -> Tensor:
        """Sums of an epoch: loss, each term, weights, gradient norms."""
        return torch.zeros(len(self.task.terms) + 3, dtype=torch.float64, device=self.device)

    def _enter(self, stream: JetStream, batch: GraphBatch, doing: str) -> None:
        """Remember where the training is, in words that are needed if it ends here."""
        steps_before = 0 if stream.split == "train" else len(self.streams["train"])
        self.at(self.state.epoch + 1, steps_before + stream.step, doing)
        self.place = (
            f"epoch {self.state.epoch + 1}, step {stream.step} of the {stream.split} split on worker {self.ranks.world_rank} "
            f"({batch.num_graphs} jets with {batch.num_nodes} nodes and {batch.num_edges} edges)"
        )

    def _start_clock(self) -> None:
        self.clock_s = time.monotonic()

    def _stop_clock(self) -> None:
        self.history.add_time(time.monotonic() - self.clock_s)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _averages(self, prefix: str, sums: list[float]) -> dict[str, float]:
        loss, *terms, weight, _ = sums
        if weight == 0:
            raise UserError(f"the weights of the jets of the {prefix} split sum to zero: choose another weighting")
        named = {f"{prefix}_loss_{t.observable}": v / weight for t, v in zip(self.task.terms, terms, strict=True)}
        return {f"{prefix}_loss": loss / weight, **named}

    def _seed(self, epoch: int, step: int) -> None:
        key = (self.config.seed, epoch, step, self.ranks.world_rank)
        torch.manual_seed(hash(key) % 2**63)

    def _out_of_patience(self) -> bool:
        patience = self.config.selection.patience
        return patience is not None and self.state.epoch - 1 - self.state.best_epoch >= patience
