"""Which jets made a loss that is not finite?

In each step the device notes which losses are finite, and nobody waits for it: the notes are read when a sum turns out not to
be finite, some steps later, when the weights are spoilt already. The first step with a bad note is read again, with the
identifiers of its rows. All processes come to the same words, whichever holds the jets.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from distjet.dataset.streaming.stream import JetStream
from distjet.ranks import RankInfo
from distjet.training import parallel

IDENTIFIERS = ("sample", "run", "event", "jet_index")
NUM_NAMED = 5
"Jets of each process that are named; all are counted."


@dataclass(frozen=True)
class Note:
    """What is known of one step on one process, on the device.

    Attributes:
        step: The step of the epoch, counted from 1.
        graphs: Loss of each jet, shape (B,).
        norm: Norm of the gradient, shape (); 0 in a validation.
        weight: Sum of the weights of all jets of the step, of all processes, shape (); None in a validation.
    """

    step: int
    graphs: Tensor
    norm: Tensor
    weight: Tensor | None

    def is_bad(self) -> bool:
        """Whether anything is not finite; the host waits for the device."""
        return not bool(torch.isfinite(self.graphs).all() & torch.isfinite(self.norm))


@dataclass
class Suspects:
    """The notes of the steps since the last look."""

    stream: JetStream
    notes: list[Note] = field(default_factory=list)

    def note(self, graphs: Tensor, norm: Tensor, weight: Tensor | None = None) -> None:
        """Keep what the step under way has given."""
        self.notes.append(Note(self.stream.step, graphs, norm, weight))

    def forget(self) -> None:
        """Begin anew: all was finite."""
        self.notes.clear()

    def explain(self, epoch: int, device: torch.device, ranks: RankInfo) -> str:
        """Say where a loss was not finite first; to be called on all processes.

        Args:
            epoch: The epoch under way, counted from 0.
            device: Where the processes talk.
            ranks: This process's place in the run.

        Returns:
            One sentence with epoch, step and jets, and what to do, the same on all processes.
        """
        mine = next((note.step for note in self.notes if note.is_bad()), 2**53)
        step = -int(parallel.largest([-mine], device, ranks)[0])
        graphs = next(note.graphs for note in self.notes if note.step == step)
        rows = torch.nonzero(~torch.isfinite(graphs)).flatten().tolist()
        named = parallel.gather((len(rows), len(graphs), self._identify(epoch, step, rows[:NUM_NAMED])), ranks)
        num_bad, num_jets = sum(part[0] for part in named), sum(part[1] for part in named)
        place = f"epoch {epoch + 1}, step {step} of {len(self.stream)} of the {self.stream.split} split"
        if num_bad == 0:
            return f"the gradient is not finite in {place}, where the loss of each of {num_jets} jets is; {self._advice(step)}"
        jets = [jet for part in named for jet in part[2]][:NUM_NAMED]
        listed = f"{'; '.join(jets)}{'; ...' if num_bad > len(jets) else ''}"
        ran_away = f"the weights have run away: {self._advice(step)}"
        advice = ran_away if num_bad == num_jets else "look at these jets in the dataset"
        return f"the loss of {num_bad} of {num_jets} jets is not finite in {place} ({listed}); {advice}"

    def _advice(self, last: int) -> str:
        """Say what helps where no single jet is to blame, from the steps up to the last one."""
        sums = [note.weight for note in self.notes if note.step <= last and note.weight is not None]
        if num_negative := sum(bool(weight < 0) for weight in sums):
            found = f"the weights of the jets sum to less than zero in {num_negative} of the last {len(sums)} steps"
            return f"{found}, which turns the gradient around: raise batch_size, or choose another weighting"
        return "lower optimizer.lr"

    def _identify(self, epoch: int, step: int, rows: list[int]) -> list[str]:
        """Read this process's part of a step again, and name some of its rows."""
        if not rows:
            return []
        config = self.stream.config.model_copy(update={"row_columns": IDENTIFIERS, "cache": None})
        ours = self.stream
        again = JetStream(ours.manifest, ours.split, config, seed=ours.seed, ranks=ours.ranks)
        again.load_state_dict(ours.state_dict() | {"epoch": epoch, "step": step - 1})
        batches = iter(again)
        found = next(batches).rows
        del batches  # and with it the threads that read ahead
        return [", ".join(f"{name} {found[name][row]}" for name in IDENTIFIERS) for row in rows]
