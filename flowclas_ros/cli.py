"""The command `flowclas`. Each of its commands imports what it needs only when it runs."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from flowclas_ros import __version__
from flowclas_ros.allocator import keep_freed_memory
from flowclas_ros.errors import FlowclasError

# Commands with an argument parser of their own: module whose main(argv) takes the rest of the line, and their help.
_HANDED_ON = {
    "fit": ("flowclas_ros.training.fit", "train a model on normal images and calibrate it"),
    "distill": ("flowclas_ros.training.distill", "train a small backbone to give the features of a large one"),
    "demo": (
        "flowclas_ros.node.demo",
        "run the detector in a live ROS 2 graph, with the samples or your own recording",
    ),
}
# Commands parsed here: module with add_arguments(parser) and run(arguments), and their help. These take a model's
# options as well;
_WITH_MODEL = {
    "calibrate": (
        "flowclas_ros.replay.calibrate",
        "set a checkpoint's thresholds from normal recordings of your own camera",
    ),
    "evaluate": ("flowclas_ros.training.evaluate", "measure AUPRC, AUROC and FPR95 on labelled images"),
    "predict": (
        "flowclas_ros.replay.predict",
        "write score, heat, mask and overlay for an image, folder, video or bag",
    ),
    "replay": (
        "flowclas_ros.replay.replay",
        "run recorded bags through the detector: annotated bag, metrics, report, pass or fail",
    ),
}
# these do not.
_WITHOUT_MODEL = {
    "compare": (
        "flowclas_ros.replay.compare",
        "compare two replays of the same bags: which is better, and where they differ",
    ),
    "simulate": ("flowclas_ros.replay.simulate", "render a scene with ground truth, as a bag or a folder"),
}
_OWN = {**_WITH_MODEL, **_WITHOUT_MODEL}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 2 a failure that the user can act on, 130 interrupted."""
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `flowclas ... | head`: nobody reads on, and Python must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except FlowclasError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(
            f"the Python module '{error.name}' is not installed: pip install 'flowclas_ros[training,bags]' "
            "(README.md says how to get ROS 2)"
        )
    except MemoryError:
        return _fail("out of memory: use smaller images, or `--streaming` where there is one")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")


def _run(arguments: list[str]) -> int:
    # The handed-on commands are cut off before argparse sees them: its REMAINDER would swallow or miss options.
    if arguments and arguments[0] in _HANDED_ON:
        command = importlib.import_module(_HANDED_ON[arguments[0]][0])
        return int(command.main(arguments[1:]) or 0)
    # Only the chosen command's module is imported; `flowclas --help` needs none.
    parser = _parser(chosen=next((word for word in arguments if not word.startswith("-")), None))
    parsed = parser.parse_args(arguments)
    return int(importlib.import_module(_OWN[parsed.command][0]).run(parsed))


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowclas", description="FlowCLAS anomaly segmentation: find what does not belong in a scene."
    )
    parser.add_argument("--version", action="version", version=f"flowclas_ros {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, help_text) in sorted({**_HANDED_ON, **_OWN}.items()):
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name == chosen and name in _OWN:
            if name in _WITH_MODEL:
                _add_model_arguments(command)
            importlib.import_module(_OWN[name][0]).add_arguments(command)
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, type=Path, help=".safetensors file that `flowclas fit` wrote")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "bf16", "fp16"),
        help="arithmetic of the network (default: fp32)",
    )
    parser.add_argument(
        "--backbone-weights", type=Path, help="local .safetensors file, if the checkpoint embeds no backbone"
    )


def _fail(text: str) -> int:
    print("error: " + " ".join(text.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
