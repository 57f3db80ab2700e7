"""Ridge regression from sums that merge: moments of pairs (x, y), the solution for every ridge, its scores.

W = (X'X + ridge tr(X'X) / C I)^-1 X'Y of centred X (N, C) and Y (N, D) (Hoerl & Kennard, Technometrics 1970).
The sums of two parts give those of the whole (Chan, Golub & LeVeque, 1979).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

RIDGES = (0.0, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Those that are tried, in mean variances of x."""
DEFAULT_RIDGE = 0.03


@dataclass(frozen=True)
class Moments:
    """Of pairs of x (N, C) and y (N, D), in float64.

    Attributes:
        count: () int64, N.
        mean_x: (C,).
        mean_y: (D,).
        xx: (C, C) centred, summed over N.
        xy: (C, D) likewise.
        yy: () squared distances of y from its mean, summed.
    """

    count: Tensor
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def zero(cls, width: int, target_width: int) -> "Moments":
        """Of no pairs."""
        shapes = ((width,), (target_width,), (width, width), (width, target_width), ())
        return cls(torch.zeros((), dtype=torch.int64), *(torch.zeros(s, dtype=torch.float64) for s in shapes))

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "Moments":
        """Of x (N, C) and y (N, D), N >= 1."""
        x, y = x.double(), y.double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        x, y = x - mean_x, y - mean_y
        return cls(torch.tensor(len(x)), mean_x, mean_y, x.t() @ x, x.t() @ y, y.square().sum())

    def __add__(self, other: "Moments") -> "Moments":
        """Of both."""
        if not int(self.count) or not int(other.count):
            return self if int(other.count) == 0 else other
        count = self.count + other.count
        x, y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        part = other.count.double() / count  # of int64 alone torch makes float32
        weight = self.count * part
        return Moments(
            count, self.mean_x + part * x, self.mean_y + part * y,
            self.xx + other.xx + weight * torch.outer(x, x), self.xy + other.xy + weight * torch.outer(x, y),
            self.yy + other.yy + weight * y.square().sum(),
        )  # fmt: skip

    def solve(self) -> "Solution":
        """All ridges at once, from the eigenvectors of xx; N >= 1."""
        values, vectors = torch.linalg.eigh(self.xx)
        # what rounding leaves of a direction that doesn't vary
        noise = torch.finfo(torch.float64).eps * len(values)
        noise = noise * (values[-1] + self.count * self.mean_x.square().max())
        alive = values > noise
        return Solution(
            self.mean_x, self.mean_y, values[alive], vectors[:, alive], vectors[:, alive].t() @ self.xy
        )


@dataclass(frozen=True)
class Solution:
    """Maps from x to y by ridge.

    Attributes:
        mean_x, mean_y: (C,), (D,) of the pairs.
        values, vectors: (R,), (C, R) variances, summed, and their directions; those without any are left out.
        xy: (R, D).
    """

    mean_x: Tensor
    mean_y: Tensor
    values: Tensor
    vectors: Tensor
    xy: Tensor

    @property
    def rank(self) -> int:
        """Number of directions in which x varies."""
        return len(self.values)

    def weight(self, ridge: float) -> Tensor:
        """(C, D); y - mean_y is about (x - mean_x) @ weight. Of ridge 0 it has the least norm."""
        added = ridge * self.values.sum() / len(self.mean_x)
        return self.vectors @ (self.xy / (self.values + added)[:, None])

    def explained(self, weight: Tensor, moments: Moments) -> float:
        """R^2 of the map on the pairs of `moments`, against mean_y; nan without pairs."""
        off = moments.mean_y - self.mean_y
        off_x = moments.mean_x - self.mean_x
        total = moments.yy + moments.count * off.square().sum()
        left = moments.yy - 2 * (weight * moments.xy).sum() + (weight * (moments.xx @ weight)).sum()
        left = left + moments.count * (off - off_x @ weight).square().sum()
        return float(1 - left / total) if total > 0 else float("nan")


def ranks(solution: Solution, weight: Tensor, x: Tensor, rows: Tensor, right: Tensor) -> Tensor:
    """(K,) int64 rank, from 1, of the right row of (T, D) for each x (K, C), by cosine to x's image around
    the mean; `right` (K,) int64. Of equal rows the right is the last: a constant image finds nothing."""
    image = nn.functional.normalize((x.double() - solution.mean_x) @ weight, dim=1)
    near = image @ nn.functional.normalize(rows.double() - solution.mean_y, dim=1).t()
    return (near >= near.gather(1, right[:, None]) - 1e-12).sum(1)


@dataclass(frozen=True)
class Scores:
    """How a map does.

    Attributes:
        ridge: in mean variances of x.
        explained, held_explained: R^2 on the pairs solved from, and on those held out (nan without any).
        top_1, top_5: share of held-out images whose right row is first, among the first five; nan likewise.
    """

    ridge: float
    explained: float
    held_explained: float
    top_1: float
    top_5: float


def choose(
    fit: Moments, solution: Solution, held: Moments, x: Tensor, rows: Tensor, right: Tensor
) -> tuple[Tensor, Scores]:
    """(weight (C, D), scores) of the ridge of RIDGES with the best (top-1, top-5, R^2) on what was held out;
    without any, of DEFAULT_RIDGE.

    Args: fit, solution, held: the pairs to solve from, solved, and others. x, rows, right: as for `ranks`.
    """
    tried = []
    for ridge in RIDGES if len(x) else (DEFAULT_RIDGE,):
        weight = solution.weight(ridge)
        place = ranks(solution, weight, x, rows, right).double() if len(x) else torch.full((1,), torch.nan)
        top = [float((place <= k).double().mean()) if len(x) else torch.nan for k in (1, 5)]
        tried.append((weight, Scores(ridge, torch.nan, solution.explained(weight, held), *top)))
    weight, scores = max(tried, key=lambda of: (of[1].top_1, of[1].top_5, of[1].held_explained))
    return weight, replace(scores, explained=solution.explained(weight, fit))


def scaled(solution: Solution, weight: Tensor, fit: Moments, norm: float) -> tuple[Tensor, Tensor]:
    """(weight (D, C), bias (D,)) of a linear layer: the map, centred, with images of RMS norm `norm`."""
    power = (weight * (fit.xx @ weight)).sum() / fit.count
    weight = weight * (norm / power.sqrt().clamp_min(1e-300))
    return weight.t(), -(solution.mean_x @ weight)
