"""A fit on two processes is the fit of one with both of their batches."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fit_running
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file

from flowclas_ros.training import fit as fitting
from flowclas_ros.training.losses import LossConfig, contrastive_loss

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parent.parent
# Sums in another order than one process has; seen: 2e-7 and 2e-8.
LOSS, WEIGHTS = 1e-5, 1e-5
GPU_LOSS = 1e-2  # of other batch sizes, which sum in another order


def fit(root, processes, batch_size, device="cpu"):
    output = root / f"of_{processes}_{device}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "flowclas_ros.cli", "fit"]
    command += ["--config", str(root / "fit.yaml"), "--output", str(output), "--trainer.devices", str(processes)]
    command += ["--trainer.device", device]
    # The data are of one size, as crops are: of several, each process would pad to the largest of its own batch. And
    # noise is each process's own.
    command += ["--data.batch_size", str(batch_size), "--trainer.max_epochs", "2", "--model.flow.noise", "0"]
    command += ["--loss.near_share", "0.5", "--loss.hard_share", "0.5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def series(output, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.slow
def test_two_processes_log_the_losses_and_end_at_the_weights_of_one(fit_root):
    pytest.importorskip("tensorboard", reason="needs tensorboard (extra training)")
    one, two = fit(fit_root, 1, 4), fit(fit_root, 2, 2)
    for name in ("train/loss", "train/nll", "train/contrastive", "train/nll_outlier"):
        ours, theirs = series(two, name), series(one, name)
        assert [step for step, _ in ours] == [step for step, _ in theirs] and len(ours) == 6
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], rel=LOSS), name
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=WEIGHTS, atol=WEIGHTS, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA GPUs here")
def test_two_gpus_log_the_losses_of_one(fit_root):
    pytest.importorskip("tensorboard", reason="needs tensorboard (extra training)")
    one, two = fit(fit_root, 1, 4, "cuda"), fit(fit_root, 2, 2, "cuda")
    ours, theirs = ([value for _, value in series(folder, "train/loss")] for folder in (two, one))
    assert len(ours) == 6 and ours == pytest.approx(theirs, rel=GPU_LOSS)


def test_each_process_measures_its_start_on_its_own_device(fit_root, monkeypatch):
    """All on the first GPU would run it out of memory, and what they leave there would stay for the whole fit."""
    started = []

    class Measured(Exception):
        pass

    def measure(model, config, data, device):
        started.append(device)
        raise Measured

    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda", 1)))
    monkeypatch.setattr(fitting, "_trainer", lambda *_: trainer)
    monkeypatch.setattr(fitting, "_initialise", measure)
    with pytest.raises(Measured):
        fit_running.fit(fit_root, "second", "--trainer.devices", "2")
    assert started == [torch.device("cuda", 1)]


def test_the_gaussian_is_fitted_by_the_first_process_alone(fit_root, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    monkeypatch.setattr(fitting, "_fit_gaussian", lambda *_: pytest.fail("the second process fits too"))
    fit_running.fit(fit_root, "gaussian_of_the_second", "--method", "gaussian", "--trainer.devices", "2")


GRADIENT = """
import sys, torch, torch.distributed as dist
from flowclas_ros.training.distributed import mean_over_processes, sample_over_processes, sizes_over_processes
dist.init_process_group("gloo")
rank = dist.get_rank()
everything = torch.load(sys.argv[1], weights_only=True)
rows = everything[[slice(0, 5), slice(5, 12)][rank]].clone().requires_grad_()
sizes = sizes_over_processes(rows)
drawn = sample_over_processes(rows, sizes, 9, torch.Generator().manual_seed(4))
loss = (drawn**3).sum() + mean_over_processes(rows[:, 0], empty=0.0)
loss.backward()
torch.save({"drawn": drawn.detach(), "gradient": rows.grad, "loss": loss.detach()}, f"{sys.argv[1]}.{rank}")
dist.destroy_process_group()
"""


LABELS = """
import sys, torch, torch.distributed as dist
from test_label_losses import tiny
from flowclas_ros.training.losses import LossConfig
from flowclas_ros.training.segmentation import label_losses
torch.manual_seed(1)
classes = torch.randint(0, 4, (2, 64, 64), dtype=torch.uint8)
labels = torch.zeros_like(classes)
labels[0, :8] = 1  # outliers in the first image alone, and few
classes[0, :48] = 255  # most of its pixels without a class
model = tiny()
features = model.features(torch.rand(2, 3, 64, 64))
mine = slice(0, 2)
if len(sys.argv) > 2:
    dist.init_process_group("gloo")
    mine = slice(dist.get_rank(), dist.get_rank() + 1)
config, size = LossConfig(segmentation=1.0, energy_entropy=1.0), torch.full((2, 2), 64)
losses = label_losses(model, features[mine], classes[mine], labels[mine], size[mine], config)
losses = torch.stack([losses["cross_entropy"], losses["energy_entropy"]])
gradients = torch.autograd.grad(losses.sum(), list(model.segmentation.parameters()))
values = torch.cat([losses.detach(), *(gradient.flatten() for gradient in gradients)])
if len(sys.argv) > 2:
    dist.all_reduce(values)
    torch.save(values / 2, sys.argv[1]) if dist.get_rank() == 0 else None
    dist.destroy_process_group()
else:
    torch.save(values, sys.argv[1])
"""


def test_class_losses_over_two_processes_are_those_of_one(tmp_path):
    """A mean of each process's own mean would weigh a pixel by how few its process has labelled."""
    (tmp_path / "run.py").write_text(LABELS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'test'}", "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for start, rest in (([], ["one"]), (launcher, ["two", "both"])):
        command = [sys.executable, *start, "run.py", *rest]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=WEIGHTS, atol=WEIGHTS)


def test_samples_and_their_gradients_over_two_processes_are_those_of_one(tmp_path):
    """Each process has the whole loss of the sample; DDP's average of the gradients is then the one gradient."""
    from flowclas_ros.training.distributed import mean_over_processes, sample_over_processes

    everything = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    torch.save(everything, tmp_path / "rows")
    (tmp_path / "run.py").write_text(GRADIENT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path / "run.py"), str(tmp_path / "rows")], env=environment,
                          capture_output=True, text=True, timeout=200)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = everything.clone().requires_grad_()
    drawn = sample_over_processes(rows, [12], 9, torch.Generator().manual_seed(4))
    loss = (drawn**3).sum() + mean_over_processes(rows[:, 0], empty=0.0)
    loss.backward()
    parts = [torch.load(tmp_path / f"rows.{rank}", weights_only=True) for rank in (0, 1)]
    assert torch.equal(parts[0]["drawn"], drawn.detach()) and torch.equal(parts[1]["drawn"], drawn.detach())
    torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]) / 2, rows.grad)
    torch.testing.assert_close((parts[0]["loss"] + parts[1]["loss"]) / 2, loss.detach())


def test_a_sample_keeps_all_rows_where_there_are_few_and_the_loss_needs_no_order():
    from flowclas_ros.training.distributed import sample_over_processes

    rows = torch.nn.functional.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(2)), dim=1)
    assert torch.equal(sample_over_processes(rows, [8], 8, None), rows)
    labels = torch.tensor([0] * 4 + [1] * 4)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    losses = [contrastive_loss(rows[i], labels[i], rows[:0], LossConfig()) for i in (torch.arange(8), order)]
    torch.testing.assert_close(*losses)
