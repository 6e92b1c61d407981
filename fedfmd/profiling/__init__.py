"""What models cost before anything is trained with them (`fedfmd profile`)."""

from fedfmd.profiling.profile import Profile, analyse, measure
from fedfmd.profiling.variants import Task, grid, read_models

__all__ = ["Profile", "Task", "analyse", "grid", "measure", "read_models"]
