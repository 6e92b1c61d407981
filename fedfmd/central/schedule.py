"""The step size as a pure function of the training done so far, so that resuming needs no state for it."""

import math

from fedfmd.config.sections.central import TrainConfig


def learning_rate(config: TrainConfig, epochs_done: float) -> float:
    """Return the step size after ``epochs_done`` epochs, a fraction inside an epoch, below ``config.epochs``.

    The warm-up rises linearly; the cosine (Loshchilov & Hutter 2017) falls over the epochs after it.
    """
    if epochs_done < config.warmup_epochs:
        return config.learning_rate * epochs_done / config.warmup_epochs
    if config.schedule == "step":
        passed = sum(epochs_done >= milestone for milestone in config.milestones)
        return config.learning_rate * config.decay**passed
    if config.schedule == "cosine":
        done = (epochs_done - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate
