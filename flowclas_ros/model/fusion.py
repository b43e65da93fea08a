"""The score of likelihood and margin together: what is rare and what is foreign."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model.guided import box_mean

INLIER_EVERY = 4  # one inlier cell in so many sets the moments
NEAR = 2  # cells around an outlier in which an inlier cell is a near one
INLIER_WEIGHT = 10.0  # of the inliers' covariance beside the outliers': there are few objects, and they vary less
CENTRED_UP_TO = 8.0  # of a frame's median, in spreads of the score: no weather moves a frame further
# The margin's two parts. The discriminant counts less: it tells pasted objects apart better than real ones
# (docs/measurements.md).
PROJECTION_WEIGHT, DISCRIMINANT_WEIGHT = 0.5, 0.25
RIDGE = 1e-6  # of the covariances' mean variance, so that constant channels do no harm


def near_outliers(labels: Tensor) -> Tensor:
    """Inlier cells within ``NEAR`` cells of an outlier: labels (B, h, w), 0 inlier, 1 outlier -> (B, h, w) bool.

    A backbone sees far beyond a cell, so these look foreign although they are not: most false alarms lie there.
    """
    around = F.max_pool2d((labels == 1).float().unsqueeze(1), 2 * NEAR + 1, stride=1, padding=NEAR).squeeze(1)
    return (around > 0) & (labels == 0)


def centre_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median and twice the median absolute deviation of values (N,), both scalars, the spread above 0."""
    centre = values.median()
    return centre, (2 * (values - centre).abs().median()).clamp_min(1e-6)


class Moments:
    """Count, mean and covariance of rows (N, D) that come in parts, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Some more rows (N, D)."""
        rows = rows.double()
        self.count += rows.shape[0]
        self._sum = self._sum + rows.sum(dim=0)
        self._squares = self._squares + rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return torch.as_tensor(self._sum) / self.count

    def scatter(self, centre: Tensor) -> Tensor:
        """Mean outer product of the rows less ``centre`` (D,): (D, D); about their mean the covariance."""
        shift = self.mean - centre
        around_mean = torch.as_tensor(self._squares) / self.count - torch.outer(self.mean, self.mean)
        return around_mean + torch.outer(shift, shift)


class CellMoments:
    """Moments of the cells of labelled maps: of inliers, of those of them that lie near an outlier, of outliers.

    Of the inliers each ``INLIER_EVERY``-th counts: neighbours tell the same, and with a thousand channels and more the
    products would take longer than the backbone.
    """

    def __init__(self) -> None:
        self.inliers, self.near, self.outliers = Moments(), Moments(), Moments()
        self._maps = 0

    def add(self, maps: Tensor, labels: Tensor) -> None:
        """Some more: (B, D, h, w) with labels (B, h, w), 0 inlier, 1 outlier, anything else left out."""
        rows = maps.movedim(1, -1)
        self.inliers.add(rows[labels == 0][self._maps % INLIER_EVERY :: INLIER_EVERY])
        self.near.add(rows[near_outliers(labels)])
        self.outliers.add(rows[labels == 1])
        self._maps += 1

    @property
    def normal(self) -> list[Moments]:
        """Those that say what is normal, and count alike."""
        return [self.inliers, self.near] if self.near.count else [self.inliers]

    @property
    def normal_mean(self) -> Tensor:
        """(D,)."""
        return torch.stack([moments.mean for moments in self.normal]).mean(dim=0)

    def difference(self) -> Tensor:
        """From what is normal to the outliers: (D,)."""
        return self.outliers.mean - self.normal_mean

    def unit(self, line: Tensor) -> Tensor:
        """A line (D,) of such length that the inliers' deviation along it is 1."""
        covariance = self.inliers.scatter(self.inliers.mean)
        return line / (line @ covariance @ line).sqrt().clamp_min(1e-12)


class MarginFusion(nn.Module):
    """Joins the NLL with a margin: how much nearer a cell lies to the pasted outliers than to the inliers.

    The margin m is ``PROJECTION_WEIGHT`` of one and ``DISCRIMINANT_WEIGHT`` of another, each in standard deviations of
    the inliers: that of the contrastive head's projection along the line between the two means, and that of the
    backbone's features along Fisher's linear discriminant (Fisher 1936), which few objects suffice to set. Inliers near
    an outlier count as much as all of them.
    With c the median and s twice the median absolute deviation of the inliers' NLL,

        score = c + s (asinh((nll - c) / s) + weight * m).

    Near c this moves with the NLL one to one. Far from it the NLL counts by its logarithm: its tail is heavy on normal
    scenes too (a rare sign, a lamp), and as it stands would drown the margin.

    With a ``neighbourhood`` of more than one cell the discriminant also sees the features' means over a square of so
    many cells around each: what stands out of its surroundings, and what goes on beyond the cell. It is a line, so the
    mean is taken of the product, which costs nothing.

    ``centred`` takes each frame's median off its score, up to ``CENTRED_UP_TO`` s: weather, light and a strange street
    move a whole frame, an object does not, unless it fills more than half of the view.
    """

    direction: Tensor
    discriminant: Tensor
    offset: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self, dimensions: int, channels: int, weight: float, *, centred: bool = False, neighbourhood: int = 1
    ) -> None:
        super().__init__()
        self.weight, self.centred, self.neighbourhood = weight, centred, neighbourhood
        self.register_buffer("direction", torch.zeros(dimensions))
        self.register_buffer("discriminant", torch.zeros(channels if neighbourhood == 1 else 2 * channels))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, nll: Tensor, projection: Tensor, features: Tensor, beside: Tensor | None = None) -> Tensor:
        """Score (B, h, w), nats per dimension.

        Args:
            nll: (B, h, w), nats per dimension.
            projection: (B, P, h, w).
            features: (B, C, h, w).
            beside: (B, h, w), a term more beside asinh and margin.
        """
        # Not as an einsum under autocast: a product with a fixed direction is cheap, its rounding would show.
        margin = (projection * self.direction.view(1, -1, 1, 1)).sum(dim=1) - self.offset
        channels = features.shape[1]
        margin = margin + (features * self.discriminant[:channels].view(1, -1, 1, 1)).sum(dim=1)
        if self.neighbourhood > 1:
            around = (features * self.discriminant[channels:].view(1, -1, 1, 1)).sum(dim=1, keepdim=True)
            margin = margin + box_mean(around, self.neighbourhood).squeeze(1)
        joint = torch.asinh((nll - self.centre) / self.spread) + self.weight * margin
        if beside is not None:
            joint = joint + beside
        if self.centred:
            median = joint.flatten(1).median(dim=1).values.clamp(-CENTRED_UP_TO, CENTRED_UP_TO)
            joint = joint - median.view(-1, 1, 1)
        return self.centre + self.spread * joint

    def seen(self, features: Tensor) -> Tensor:
        """What the discriminant looks at: features (B, C, h, w), with their neighbourhoods' means (B, 2C, h, w)."""
        return features if self.neighbourhood == 1 else torch.cat([features, box_mean(features, self.neighbourhood)], 1)

    @torch.no_grad()
    def fit(self, projection: CellMoments, seen: CellMoments, inlier_nll: Tensor) -> None:
        """Set directions and scales; the flow and the projection head stay as they are.

        Args:
            projection: of the contrastive head's projection (P).
            seen: of what the discriminant sees (C or 2C).
            inlier_nll: (N,) of inlier cells, nats per dimension.

        Raises:
            FlowclasError: fewer than two inliers, or no outlier, in one of them.
        """
        for cells in (projection, seen):
            inliers, outliers = cells.inliers.count, cells.outliers.count
            if inliers < 2 or outliers < 1:
                raise FlowclasError(f"the margin needs inlier and outlier pixels, got {inliers} and {outliers}")
        scatter = torch.stack([moments.scatter(seen.normal_mean) for moments in seen.normal]).mean(dim=0)
        within = INLIER_WEIGHT * scatter + seen.outliers.scatter(seen.outliers.mean)
        ridge = RIDGE * within.diagonal().mean() * torch.eye(within.shape[0], dtype=within.dtype, device=within.device)
        fisher = torch.linalg.solve(within + ridge, seen.difference())
        direction = PROJECTION_WEIGHT * projection.unit(projection.difference())
        discriminant = DISCRIMINANT_WEIGHT * seen.unit(fisher)
        self.direction.copy_(direction)
        self.discriminant.copy_(discriminant)
        self.offset.copy_(projection.inliers.mean @ direction + seen.inliers.mean @ discriminant)
        centre, spread = centre_and_spread(inlier_nll)
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Older checkpoints have the projection's margin alone, which is a discriminant of zeros."""
        state_dict.setdefault(f"{prefix}discriminant", torch.zeros_like(self.discriminant))
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[no-untyped-call]
