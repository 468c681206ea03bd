"""The learning rate over a run, as a share of the highest one."""

import math

from .settings import TrainSettings


def rate_at(settings: TrainSettings, step: int, steps: int, seconds: float) -> float:
    """The learning rate of a step.

    Args:
        step: counted from 0.
        steps: steps of the whole run; without effect if ``settings.minutes`` is given.
        seconds: time since the run's start, which counts if ``settings.minutes`` is given.
    """
    if settings.schedule == "constant":
        return settings.lr
    if settings.minutes is None:
        return settings.lr * warmup_cosine(step, steps, settings.warmup, settings.final_lr)
    # A thousandth of the run is this schedule's step: fine enough for a smooth curve.
    progress = min(1000, int(1000 * seconds / (60 * settings.minutes)))
    return settings.lr * warmup_cosine(progress, 1000, settings.warmup, settings.final_lr)


def warmup_cosine(update: int, updates: int, warmup: float = 0.05, final: float = 0.01) -> float:
    """Learning rate at ``update``, counted from 0, of ``updates``: a share of the highest one.

    Rises linearly over the share ``warmup`` of the updates, then falls to ``final`` along half a
    cosine: Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2017,
    without the restarts.
    """
    rising = max(1, int(updates * warmup))
    if update < rising:
        return (update + 1) / rising
    progress = (update - rising) / max(1, updates - rising)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
