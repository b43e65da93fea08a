"""The worlds that ship: for each a fitted checkpoint with its backbone inside, and a bag that it was not fitted on.

MODEL_CARD.md says how they came to be; tools/build_samples.py makes them anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flowclas_ros.errors import FlowclasError

FOLDER = Path(__file__).resolve().parent
DOMAINS = ("orbit", "road")
RATE, SECONDS = 5.0, 14.0  # frames a second, and length, of the bags
IMAGE_TOPIC = "/camera/image_raw/compressed"  # of the bags
MASK_TOPIC = "/ground_truth/mask"  # 0 normal, 1 anomaly, 255 ignored, with its frame's stamp


@dataclass(frozen=True)
class Sample:
    """A checkpoint and a bag of one domain."""

    domain: str
    checkpoint: Path
    bag: Path


def sample(domain: str) -> Sample:
    """The files of a domain. Raises FlowclasError for one that does not ship, or an installation without its files."""
    if domain not in DOMAINS:
        raise FlowclasError(f"there is no sample '{domain}'; there are: {', '.join(DOMAINS)}")
    found = Sample(domain, FOLDER / f"{domain}.safetensors", FOLDER / f"{domain}.mcap")
    for path in (found.checkpoint, found.bag):
        if not path.is_file():
            raise FlowclasError(f"sample {path} is missing: install flowclas_ros again, or run tools/build_samples.py")
    return found
