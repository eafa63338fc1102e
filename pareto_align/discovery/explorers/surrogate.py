"""The surrogate: a Gaussian process from preference to measured objectives, and what it expects to gain where.

botorch is loaded at first use. Everything is float64, on the CPU and seeded.

botorch 0.18 and later compile a C++ kernel the first time this acquisition function is built (it needs a compiler and
takes some seconds; torch keeps the result in its cache of extensions, and without a compiler botorch warns and goes on
in Python). The problems here are so small that the kernel saves milliseconds, so the compilation is skipped.

References:
    Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian Optimization", arXiv 2310.20708
        (qLogNoisyExpectedHypervolumeImprovement).
    Daulton, Balandat and Bakshy, "Parallel Bayesian Optimization of Multiple Noisy Objectives with Expected Hypervolume
        Improvement", arXiv 2105.08195.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pareto_align.front.preferences import simplex_plane

__all__ = ["PreferenceModel"]


class PreferenceModel:
    """m Gaussian processes over the simplex, conditioned on what was measured and how well.

    Args:
        preferences: `[n, m]` what policies were trained for.
        values: `[n, m]` their framed means.
        variances: `[n, m]` squared standard errors of the means.
        reference: `[m]` framed reference point of the hypervolume.
        samples: Monte Carlo samples of the acquisition function.
        seed: Of these samples.
    """

    def __init__(
        self,
        preferences: np.ndarray,
        values: np.ndarray,
        variances: np.ndarray,
        *,
        reference: np.ndarray,
        samples: int,
        seed: int,
    ) -> None:
        import torch
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        self.m = values.shape[1]
        self.reference, self.samples, self.seed = reference, samples, seed % 2**31
        self.plane = simplex_plane(self.m)
        self.X = torch.tensor(preferences @ self.plane, dtype=torch.float64)
        Y = torch.tensor(values, dtype=torch.float64)
        noise = torch.tensor(np.maximum(variances, 1e-6), dtype=torch.float64)
        self.acquisition: Any = None
        with self._alone():
            self.gp = SingleTaskGP(self.X, Y, noise)
            marginal = ExactMarginalLogLikelihood(self.gp.likelihood, self.gp)
            fit_gpytorch_mll(marginal, optimizer_kwargs={"options": {"maxiter": 50}})

    def predict(self, preferences: np.ndarray) -> np.ndarray:
        """Expected framed values `[n, m]` of policies trained for preferences `[n, m]`."""
        import torch

        with self._alone(), torch.no_grad():
            mean = self.gp.posterior(torch.tensor(preferences @ self.plane, dtype=torch.float64)).mean
        return np.asarray(mean.numpy(), dtype=float)

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        """`[n]` logarithm of the hypervolume that each of the candidates `[n, m]` promises, on its own."""
        return self._log_gains(candidates, [])

    def best(self, candidates: np.ndarray, count: int) -> np.ndarray:
        """Indices of the `count` candidates of `[n, m]` that together promise most hypervolume, best first.

        Greedy: each is chosen as if those before it had been tried already.
        """
        chosen: list[int] = []
        while len(chosen) < min(count, len(candidates)):
            gain = self._log_gains(candidates, chosen)
            gain[chosen] = -np.inf
            chosen.append(int(gain.argmax()))
        return np.array(chosen, dtype=int)

    def _log_gains(self, candidates: np.ndarray, pending: list[int]) -> np.ndarray:
        import torch

        rows = torch.tensor(candidates @ self.plane, dtype=torch.float64)[:, None]
        with self._alone(), torch.no_grad():
            # told that nothing is pending, botorch keeps the last ones in its cache: a new function starts without
            if self.acquisition is None or (not pending and self.acquisition.X_pending is not None):
                self.acquisition = self._build()
            if pending:
                self.acquisition.set_X_pending(rows[pending, 0])
            return np.array(self.acquisition(rows), dtype=float)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Seeded, beside everybody else's random numbers; botorch's remarks on jitter and scaling are not printed."""
        import torch

        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(self.seed)
            yield

    def _build(self) -> Any:
        import torch
        from botorch.acquisition.multi_objective import logei
        from botorch.sampling import SobolQMCNormalSampler

        if hasattr(logei, "_load_attempted"):  # see the head of this module
            logei._load_attempted = True
        return logei.qLogNoisyExpectedHypervolumeImprovement(
            self.gp,
            [float(value) for value in self.reference],
            self.X,
            sampler=SobolQMCNormalSampler(torch.Size([self.samples]), seed=self.seed),
            prune_baseline=True,
            # boxes of less than this share of the whole are not split: exact is too slow beyond three objectives
            alpha=0.0 if self.m <= 3 else 0.01,
        )
