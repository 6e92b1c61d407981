"""Rows of the classifier by label (HeteroFL, Diao et al. 2021, section 3; FedRolex does the same).

A client that has no example of a class says nothing about that class: its row of the classifier's weight and
bias is averaged over those holders that have the label; a row that none of them has stays. Beside its update
a client sends 1 for each classifier element that counts, and 0 for the others, so that which labels a client
has is in the sum alone. Switched on by ``policy.classifier_rows = "labels"``.
"""

from functools import lru_cache

import torch
from torch import Tensor

from fedfmd.algorithms.base import Algorithm, ClientSide, Collected, Finished, Visit
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.nn.vector import Layout


class LabelRows(Algorithm):
    """Average each row of the classifier over the clients that have its label."""

    name = "label-rows"
    switch = 'policy.classifier_rows = "labels"'
    needs_mean = True
    last = True

    @classmethod
    def active(cls, config: ExperimentConfig) -> bool:
        """Return whether clients hold parts by width, whose rows go by label."""
        policy = config.policy
        by_width = policy.kind == "width" and policy.width_mode != "ordered"
        return by_width and policy.classifier_rows == "labels"

    def extra_elements(self, layout: Layout) -> int:
        """Count the classifier's elements."""
        return len(classifier_of(layout)[0])

    def extra_places(self, index: Tensor, part: Layout, whole: Layout) -> Tensor:
        """Return which of the whole classifier's elements are those of the part's."""
        order = torch.zeros(whole.elements, dtype=torch.int64)
        places, _ = classifier_of(whole)
        order[places] = torch.arange(len(places))
        return order[index[classifier_of(part)[0]]]

    def client(self, visit: Visit) -> ClientSide:
        """Send the rows of the labels that this client has."""
        return OwnRows(visit)

    def mean(self, mean: Tensor, mean_extra: Tensor, collected: Collected) -> None:
        """Divide by the share of the holders' weight that has the label."""
        places, _ = classifier_of(collected.layout)
        mean[places] = torch.where(mean_extra > 0, mean[places] / mean_extra, 0.0)


class OwnRows(ClientSide):
    """A client that says nothing of the classes that it lacks."""

    def __init__(self, visit: Visit):
        self.places, classes = classifier_of(visit.layout)
        present = torch.zeros(int(classes.max()) + 1)
        present[visit.labels.unique()] = 1.0
        self.counts = present[classes]

    def finish(self, update: Tensor, steps: int) -> Finished:
        """Leave the other rows out."""
        del steps
        update[self.places] *= self.counts
        return Finished(update=update, extra=self.counts)


@lru_cache(maxsize=64)
def classifier_of(layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the places of the classifiers' elements in a state, and the class of each, int64 (elements,).

    The classifier is the child of the network whose matrix comes last; its rows are outputs.
    """
    ends = torch.tensor(layout.sizes).cumsum(0).tolist()
    entries = [e for e in zip(layout.names, layout.shapes, ends, strict=True) if e[2] <= layout.parameters]
    last_name, (outputs, _), _ = next(entry for entry in reversed(entries) if len(entry[1]) == 2)
    child = last_name.split(".")[0]
    places, classes = [], []
    for name, shape, end in entries:
        if name.split(".")[0] == child and shape[0] == outputs:
            size = torch.Size(shape).numel()
            places.append(torch.arange(end - size, end))
            classes.append(torch.arange(outputs).repeat_interleave(size // outputs))
    return torch.cat(places), torch.cat(classes)
