"""`flowclas fit`: from a configuration to a calibrated checkpoint, resumable at any moment."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import safetensors.torch
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import track

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.device import memory_errors, resolve_device
from flowclas_ros.model.flow import FlowConfig
from flowclas_ros.model.flowclas import FlowCLAS
from flowclas_ros.training.adaptation import LowRankUpdates
from flowclas_ros.training.calibrate import CHECKPOINT, export
from flowclas_ros.training.callbacks import (
    BEST,
    LAST,
    FitProgress,
    Heatmaps,
    Interrupted,
    RunState,
    WeightEma,
    saved_run,
    whole_file,
)
from flowclas_ros.training.config import FitConfig
from flowclas_ros.training.config_file import changed_keys, config_yaml, load_config, parse_command
from flowclas_ros.training.data import FitData, open_data, validation_set
from flowclas_ros.training.module import FeatureBatches, FitModule
from flowclas_ros.training.trainer_setup import check_processes, hardware, quiet_lightning, worker_errors

CONFIG = "config.yaml"
SMALLER = "use a smaller data.batch_size, data.crop or model.short_side, loss.cells, or trainer.precision bf16"
# A resumed run may change these: none has a part in what the weights become (minutes only end a run sooner or later).
FREE_ON_RESUME = {
    "trainer.max_minutes",
    "trainer.save_every",
    "trainer.log_every",
    "data.workers",
    "embed_backbone",
    "output",
}
# And these of a run that has finished: how its score is drawn. Before, they would choose among its validations.
FREE_ONCE_FINISHED = {"model.guided_radius", "model.mirrored"}


class FitInterrupted(KeyboardInterrupt):
    """A fit that was asked to stop and did; its text says what to do next, ``signum`` which signal it was."""

    def __init__(self, text: str, signum: int = signal.SIGINT) -> None:
        super().__init__(text)
        self.signum = signum


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: ``--config FILE [--resume] [--KEY VALUE ...]``; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        run(arguments)
    except FlowclasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FitInterrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def run(arguments: Sequence[str]) -> Path | None:
    """Parse and fit; the checkpoint's path, or None after ``--help``."""
    config, flags = parse_command(arguments, FitConfig, ["--resume"])
    return fit(config, resume="--resume" in flags) if config is not None else None


def fit(config: FitConfig, *, resume: bool = False) -> Path:
    """Fit, choose, calibrate and write ``<output>/model.safetensors``; its path.

    Several devices and nodes work as Lightning has them: start the same command with torchrun or under SLURM, with
    trainer.devices and trainer.nodes as there.

    Raises:
        FlowclasError: bad data, a full disk, too little memory, an output folder that holds another run, settings or
            held-out files that differ from those of the run to be resumed, or another number of processes than they
            say.
        FitInterrupted: SIGINT, SIGTERM or SIGUSR1 came; the state is saved.
    """
    output = Path(config.output).expanduser()
    check_processes(config.trainer)
    device = resolve_device(config.trainer.device)
    try:
        if _is_first_process():
            _open_output(output, config, resume)
        with memory_errors(device, "this fit", SMALLER), worker_errors():
            return _fit(output, config, device, resume=resume and (output / LAST).is_file())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            where = error.filename or output
            raise FlowclasError(
                f"'{where}' could not be written: {error.strerror}; make room or change output"
            ) from error
        raise


def _open_output(output: Path, config: FitConfig, resume: bool) -> None:
    """Refuse a folder with another run in it; write config.yaml."""
    kept = output / CONFIG
    has_run = any((output / name).is_file() for name in (LAST, CHECKPOINT))
    if kept.is_file() and (has_run or resume):
        if not resume:
            raise FlowclasError(f"output '{output}' holds a run already; go on with --resume or choose another output")
        changed = set(changed_keys(load_config(kept), config)) - FREE_ON_RESUME
        redrawn = changed & FREE_ONCE_FINISHED
        if redrawn and (output / LAST).is_file() and _is_finished(saved_run(output / LAST), config):
            changed -= redrawn
        if changed:
            raise FlowclasError(
                f"the run in '{output}' was begun with other settings of {', '.join(sorted(changed))}; resume with the "
                f"same ones (--config {kept}), or choose another output"
            )
        if not redrawn:
            return
    elif resume:
        raise FlowclasError(f"there is no run to resume in '{output}'; start one without --resume")
    with whole_file(kept) as temporary:
        temporary.write_text(config_yaml(config), encoding="utf-8")


def _fit(output: Path, config: FitConfig, device: torch.device, *, resume: bool) -> Path:
    data = open_data(config.data, config.seed)
    validation_set(config, data).require_outliers()  # or the first validation would fail, maybe hours later
    L.seed_everything(config.seed, verbose=False)
    model = FlowCLAS(_model_config(config))
    updates = LowRankUpdates(model.backbone, config.adapt_rank) if config.adapt_rank else None
    module = FitModule(model, config, data)
    quiet_lightning()
    _say(f"fitting on {len(data.train)} frames, choosing on {len(data.val)}; {len(data.outliers)} pseudo-outliers")
    metrics: dict[str, Any] = {}
    if config.method == "flowclas":
        metrics = _train(output, module, device, resume)
    elif _is_first_process():  # there is nothing to share out
        metrics = _fit_gaussian(output, module, device)
    if not _is_first_process():
        return output / CHECKPOINT
    if updates is not None:
        updates.merge()
    path = export(output, model, config, data, metrics, device)
    _say(f"wrote {path}")
    return path


def _model_config(config: FitConfig) -> Any:
    """The model as configured, or what its baselines leave of it."""
    model = config.model
    if config.method == "gaussian":
        return model.gaussian()
    if not config.loss.fits_flow:  # the classes alone
        model = replace(model, flow=FlowConfig(steps=0))
    if config.loss.contrastive == "none":
        model = replace(model, projection_dim=0, margin_weight=0.0, centred=False, memory_weight=0.0)
    return model


def _initialise(model: FlowCLAS, config: FitConfig, data: FitData, device: torch.device) -> None:
    model.to(device)  # and not in eval mode: Lightning would leave it there, and the flow without its noise
    batches = FeatureBatches(model, data.train, config)

    class Shown:  # progress for the long passes only: ActNorm looks at one batch more
        def __init__(self, what: str) -> None:
            self.what = what

        def __iter__(self) -> Any:
            return iter(track(batches, total=len(batches), description=self.what, transient=True))

    model.flow.initialise(Shown("whitening"))
    if model.memory is not None:
        model.memory.fit(Shown("memory"), len(batches), torch.Generator().manual_seed(config.seed))


def _fit_gaussian(output: Path, module: FitModule, device: torch.device) -> dict[str, Any]:
    _initialise(module.model, module.config, module.data, device)
    return {**_validate(output, module, device), "step": 0}


def _validate(output: Path, module: FitModule, device: torch.device) -> dict[str, Any]:
    """Figures of the model as it is, on one device."""
    trainer = L.Trainer(
        **hardware(replace(module.config.trainer, devices=1, nodes=1), device),
        logger=False,
        callbacks=[FitProgress()],
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=output,
    )
    (result,) = trainer.validate(module, verbose=False)
    return {key: float(value) for key, value in result.items()}


def _train(output: Path, module: FitModule, device: torch.device, resume: bool) -> dict[str, Any]:
    config = module.config
    batches = module.batches(world=config.trainer.devices * config.trainer.nodes)
    state = RunState(
        output,
        save_every=config.trainer.save_every,
        val_every=config.trainer.val_every,
        epoch=batches.steps_per_epoch,
        total=len(batches),
        minutes=config.trainer.max_minutes,
        held_out=module.data.held_out(),
        chosen_by=module.data.chosen_by(),
    )
    if resume and _is_finished(state.saved(), config):
        _say("the run had finished; validating, calibrating and writing its checkpoint again")
        metrics = _load_best(output, module)
        return {**metrics, **_validate(output, module.to(device), device)} if _is_first_process() else metrics
    trainer = _trainer(output, module, state, device)
    if not resume and config.loss.fits_flow:
        # On this process's own device: all on the first one would fill it.
        _initialise(module.model, config, module.data, trainer.strategy.root_device)
    try:
        trainer.fit(module, ckpt_path=output / LAST if resume else None, weights_only=True)
    except Interrupted as stop:
        step = trainer.global_step
        raise FitInterrupted(
            f"interrupted; state saved at step {step} in '{output / LAST}'; go on with --resume", stop.signum
        ) from None
    except SystemExit:  # Lightning's answer to KeyboardInterrupt
        raise FitInterrupted(f"interrupted at once; go on with --resume if '{output / LAST}' exists") from None
    if state.finished and trainer.global_step < len(batches):
        _say(f"stopped at step {trainer.global_step} of {len(batches)} after trainer.max_minutes")
    return _load_best(output, module)


def _trainer(output: Path, module: FitModule, state: RunState, device: torch.device) -> L.Trainer:
    config = module.config
    callbacks: list[Any] = [FitProgress(), Heatmaps(), LearningRateMonitor("step"), state]
    if config.optimiser.ema:
        callbacks.append(WeightEma(config.optimiser.ema))
    return L.Trainer(
        **hardware(config.trainer, device),
        # To Lightning the run is one epoch, validated every so many steps: its counters then hold the step alone, and
        # the progress bar shows the time left of the whole run.
        max_epochs=1,
        val_check_interval=state.val_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # StepBatches deals the frames out
        gradient_clip_val=config.optimiser.clip or None,
        log_every_n_steps=config.trainer.log_every,
        logger=TensorBoardLogger(output, name="tensorboard", version=""),
        callbacks=callbacks,
        enable_model_summary=False,
        default_root_dir=output,
    )


def _is_finished(run: dict[str, Any], config: FitConfig) -> bool:
    """Whether a run has all its steps, or as many as the time that it has now allows."""
    minutes = config.trainer.max_minutes
    if not run["finished"] or run.get("complete", True):  # older states do not say
        return bool(run["finished"])
    return minutes is not None and run["elapsed"] >= minutes * 60


def _load_best(output: Path, module: FitModule) -> dict[str, Any]:
    """Put the chosen weights into the model; their metrics."""
    path = output / BEST
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metrics = json.loads(file.metadata()["metrics"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, safetensors.SafetensorError) as error:
        raise FlowclasError(f"'{path}' cannot be read: {error}; delete the run and fit again") from error
    module.model.load_state_dict(tensors, strict=False)
    return metrics


def _say(text: str) -> None:
    if _is_first_process():
        print(text, flush=True)


def _is_first_process() -> bool:
    """Of all processes of a run on several devices; known from the environment before they have met."""
    return int(getattr(rank_zero_only, "rank", None) or 0) == 0
