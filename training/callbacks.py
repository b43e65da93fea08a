"""What happens around the steps: saving so that a killed run goes on exactly, interrupts, averages, pictures."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import safetensors.torch
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from torch import Tensor

from flowclas_ros.detection.overlay import heat_image
from flowclas_ros.errors import FlowclasError
from flowclas_ros.files import replacing
from flowclas_ros.training.module import is_frozen

LAST, BEST = "last.ckpt", "best.safetensors"
# SLURM sends the last ahead of time where it is asked to (--signal=USR1@300); Lightning would save a state of its own
# half-way through a step, which no resumed run reads.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """Raised between two steps after one of the SIGNALS, once the state is on disk."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """``files.replacing`` for what a fit writes, with the failures of torch and safetensors told as one line.

    Raises:
        FlowclasError: the operating system refuses the write; the text names the path and the reason.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
            temporary.chmod(0o644)
    except (OSError, safetensors.SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise FlowclasError(f"'{path}' could not be written: {reason}; make room or choose another output") from error


class FitProgress(RichProgressBar):
    """Steps done, time gone and left, and the rate, over the whole run."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "fitting"  # the run is one epoch to Lightning, whose number would mislead


class Heatmaps(Callback):
    """The first validation batch's scenes with their heat, side by side in TensorBoard."""

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Draw; the heat spans the batch's own scores, from the median up."""
        if batch_idx or not trainer.is_global_zero or trainer.logger is None:
            return
        scores = [score.float().cpu().numpy() for score in outputs["scores"]]
        low, high = np.quantile(np.concatenate([score.ravel() for score in scores]), [0.5, 0.999])
        for i, score in enumerate(scores[:4]):
            heat = heat_image(np.clip((score - low) / max(high - low, 1e-6), 0, 1))
            image = batch["image"][i, :, : score.shape[0], : score.shape[1]]
            pair = np.concatenate([image.permute(1, 2, 0).cpu().numpy(), heat], axis=1)
            trainer.logger.experiment.add_image(  # type: ignore[attr-defined]
                f"val/{i}", pair, trainer.global_step, dataformats="HWC"
            )


class WeightEma(Callback):
    """Moving average of the trained weights; it takes their place in validation and in the best checkpoint."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: list[Tensor] = []

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the weights as they are, or move a restored average to the device."""
        weights = _trained(pl_module)
        source = self.average or weights
        self.average = [
            value.detach().to(weight.device, copy=True) for value, weight in zip(source, weights, strict=True)
        ]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """One step of the average."""
        torch._foreach_lerp_(self.average, [w.detach() for w in _trained(pl_module)], 1 - self.decay)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in place of the weights."""
        self._swap(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the weights back."""
        self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, module: L.LightningModule) -> None:
        for value, weight in zip(self.average, _trained(module), strict=True):
            held = weight.detach().clone()
            weight.copy_(value)
            value.copy_(held)

    def state_dict(self) -> dict[str, Any]:
        """The average, for the resumable state."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average of a saved run."""
        self.average = state_dict["average"]


def _trained(module: L.LightningModule) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


class RunState(Checkpoint):
    """Saves last.ckpt (all that a resumed run needs) and best.safetensors (weights by AUPRC), and stops on signals.

    last.ckpt is written every ``save_every`` steps, after each validation and on the first of the SIGNALS; a second one
    ends at once, with the last saved state intact. Validations are never skipped or split: a step at which one
    is due is saved after it. ``epoch`` and ``total`` are steps, ``val_every`` counts epochs, ``held_out`` and
    ``chosen_by`` say what is validated with.
    """

    def __init__(
        self,
        output: Path,
        *,
        save_every: int,
        val_every: int,
        epoch: int,
        total: int,
        minutes: float | None,
        held_out: str,
        chosen_by: str,
    ) -> None:
        self.output, self.save_every, self.epoch, self.total = output, save_every, epoch, total
        self.val_steps = val_every * epoch
        self.seconds = minutes * 60 if minutes is not None else float("inf")
        self.best: dict[str, float] = {}
        self.elapsed, self.started = 0.0, 0.0
        self.finished = self.complete = False  # ended, by whatever reason; with all steps done
        self.held_out, self.chosen_by = held_out, chosen_by
        self.signum = 0
        self.handlers: dict[int, Any] = {}

    # -- signals ------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and take over the signals, Lightning's own handlers included."""
        self.started = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                self.handlers[signum] = signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        while self.handlers:
            signum, handler = self.handlers.popitem()
            signal.signal(signum, handler)

    # -- saving -------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Save, stop, or go on."""
        step = trainer.global_step
        self.complete = step >= self.total
        self.finished = self.complete or self._any(trainer, self._clock() >= self.seconds)
        stop = self._any(trainer, bool(self.signum))
        if self.finished:
            trainer.should_stop = True  # Lightning validates once more, then ends
        if self.finished or step % self.val_steps == 0:
            return
        if stop or step % self.save_every == 0:
            self._save(trainer)
        if stop:
            raise Interrupted(self.signum or signal.SIGTERM)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights if they are the best so far, and the state in any case."""
        if not trainer.state.fn == "fit":
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        metrics["step"] = trainer.global_step
        if trainer.is_global_zero:
            epochs = trainer.global_step / self.epoch
            classes = f", mIoU {metrics['val/miou']:.4f}" if "val/miou" in metrics else ""
            print(
                f"step {trainer.global_step}/{self.total} (epoch {epochs:.1f}): AUPRC {metrics['val/auprc']:.4f}, "
                f"FPR95 {metrics['val/fpr95']:.4f}, mean inlier score {metrics['val/inlier_score']:.4f}{classes}",
                flush=True,
            )
        if metrics["val/auprc"] > self.best.get("val/auprc", -1.0):
            self.best = metrics
            self._save_best(trainer, pl_module)
        self._save(trainer)
        if self._any(trainer, bool(self.signum)):
            raise Interrupted(self.signum or signal.SIGTERM)

    def saved(self) -> dict[str, Any]:
        """What an earlier run left of this in last.ckpt. Raises FlowclasError as `saved_run`, and for other held-out
        files: of a folder with a file more or less other scenes are held out, and the weights know some of them.
        """
        run = saved_run(self.output / LAST)
        for key in ("held_out", "chosen_by"):
            now = getattr(self, key)
            begun = run.get(key, now)  # older states do not say
            if begun != now:
                raise FlowclasError(
                    f"the run in '{self.output}' was begun with other files held out for validation: {begun}; now "
                    f"there are {now}. Bring the folders back as they were, or choose another output"
                )
        return run

    def _save(self, trainer: L.Trainer) -> None:
        self.elapsed, self.started = self._clock(), time.monotonic()
        if trainer.is_global_zero:
            with whole_file(self.output / LAST) as temporary:
                trainer.save_checkpoint(temporary)
        else:  # takes part in the gathering, writes nothing
            trainer.save_checkpoint(self.output / LAST)

    def _save_best(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        ema = next((c for c in trainer.callbacks if isinstance(c, WeightEma)), None)  # type: ignore[attr-defined]
        save_weights(self.output / BEST, module, ema.average if ema else None, self.best)

    def _clock(self) -> float:
        return self.elapsed + time.monotonic() - self.started

    @staticmethod
    def _any(trainer: L.Trainer, flag: bool) -> bool:
        """Whether any process says so: all must take the same turn."""
        return trainer.strategy.reduce_boolean_decision(flag, all=False) if trainer.world_size > 1 else flag

    def state_dict(self) -> dict[str, Any]:
        """For the resumable state."""
        keys = ("best", "elapsed", "finished", "complete", "held_out", "chosen_by")
        return {key: getattr(self, key) for key in keys}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of a saved run."""
        self.best, self.elapsed, self.finished = state_dict["best"], state_dict["elapsed"], state_dict["finished"]


def saved_run(path: Path) -> dict[str, Any]:
    """What RunState left in a last.ckpt. Raises FlowclasError where that is not a whole file of ours."""
    try:
        run: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["callbacks"]["RunState"]
    except Exception as error:  # torch.load raises many types; each means: not a whole file of ours
        raise FlowclasError(f"'{path}' is damaged ({type(error).__name__}); delete the run and fit again") from error
    return run


def save_weights(path: Path, module: L.LightningModule, average: list[Tensor] | None, metrics: dict[str, Any]) -> None:
    """Everything of the model but its backbone, averaged weights in place of the trained ones if given."""
    state = {k: v for k, v in module.state_dict().items() if not is_frozen(k)}
    if average is not None:
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        state |= dict(zip(names, average, strict=True))
    tensors = {k.removeprefix("model."): v.detach().cpu().contiguous() for k, v in state.items()}
    with whole_file(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"metrics": json.dumps(metrics)})
