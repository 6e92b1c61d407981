"""Images, and who has which."""

from typing import Annotated, Any, Literal

from pydantic import Field

from fedfmd import registry
from fedfmd.config.conditions import Condition, Needs, OnlyIf, given, none_of, one_of, takes, value_of
from fedfmd.config.parts import Named
from fedfmd.config.values import HERE, Population, Rate, Samples, Section, Whole

DatasetName = Annotated[str, Named("data")]
"""Sets of images."""
SchemeName = Annotated[str, Named("partition")]
"""Ways to spread the training images over the clients."""
OWNED = none_of("data.name", "embedded", "cifar10", "cifar100", "fashion-mnist")
ROOTED = Condition(
    "a data.name that is read from a folder: one built in, or a part that takes root",
    ("data.name",),
    lambda c: (
        value_of(c, "data.name") not in ("embedded", "packs")
        and any(registry.takes("data", value_of(c, "data.name"), given) for given in ("root", "request"))
    ),
)


class DataConfig(Section):
    """Which images, and where they are."""

    name: Annotated[DatasetName, Needs(given("data.image_size"), ("imagefolder",))] = "embedded"
    """`embedded` is drawn by a program and needs no download; `cifar10`, `cifar100`, `fashion-mnist`;
    `imagefolder` are folders of yours, `huggingface` any set that `datasets` loads (`options.data.source`),
    `MODULE:NAME` any `torch.utils.data.Dataset`, as `torchvision.datasets:MNIST`, and `packs` what each real
    client has packed of its own (`fedfmd data pack`; in deployments alone)."""
    root: Annotated[str, HERE, OnlyIf(ROOTED)] = "data"
    """Folder with the downloaded files (`fedfmd data fetch`); relative to where the command runs."""
    classes: Annotated[Literal[10, 100], OnlyIf(one_of("data.name", "embedded"))] = 10
    """Number of classes of the embedded set; the others know theirs."""
    image_size: Annotated[
        Annotated[Whole, Field(ge=8, le=512)] | None,
        OnlyIf(none_of("data.name", "embedded", "cifar10", "cifar100", "packs")),
    ] = None
    """Side of the images in pixels: for `imagefolder`, and for other sets whose images differ in size. 28 for
    `fashion-mnist` is its images as they are, in one channel, which are else padded to three of 32."""
    resized_crop: Annotated[Whole, Field(ge=8, le=512)] | None = None
    """Side in pixels of the network's input, made as usual for ImageNet: training images are random crops of
    8% to 100% of the area, resized; test images are resized by 256/224 of the side and cropped at the centre
    (224: RandomResizedCrop(224); Resize(256), CenterCrop(224)). Absent: images keep their size, and random
    crops are of images padded by 4."""
    train_samples: Samples | None = None
    """Use only this many training images (a seeded choice); all of them when absent."""
    test_samples: Samples | None = None
    """Use only this many test images; all of them when absent."""

    @property
    def known_classes(self) -> int | None:
        """How many classes the images have, where that is known before they are read."""
        if self.name == "embedded":
            return self.classes
        stated = registry.fact("data", self.name, "classes")  # how many, or their names
        if isinstance(stated, int):
            return stated
        return len(stated) if isinstance(stated, list | tuple) else None


class PartitionConfig(Section):
    """Who has what: how the training images are spread over the clients."""

    scheme: Annotated[SchemeName, Needs(OWNED, ("natural",))] = "dirichlet"
    """How label and quantity skew are drawn: `iid`, `dirichlet`, `label-dirichlet`, `shards`, `labels`,
    `quantity`, `sampled`, or `MODULE:NAME` of another scheme. `natural` draws nothing: the first level of the
    training folders are the clients, `train/CLIENT/CLASS/*`, or a column of a Hugging Face set
    (`options.data.client`), or each real client has its pack; under all others subfolders belong to their
    class."""
    clients: Population = 100
    """Number of clients in the population."""
    alpha: Annotated[Rate, OnlyIf(takes("partition.scheme", "partition", "alpha"))] = 0.5
    """Concentration of the Dirichlet schemes; smaller is more skewed."""
    min_size: Annotated[Population, OnlyIf(takes("partition.scheme", "partition", "min_size"))] = 10
    """Fewest images a client may get under `dirichlet`."""
    self_balancing: Annotated[bool, OnlyIf(takes("partition.scheme", "partition", "self_balancing"))] = False
    """`dirichlet`: a client that has its share of images gets no more of the next classes."""
    shards_per_client: Annotated[
        Population, OnlyIf(takes("partition.scheme", "partition", "shards_per_client"))
    ] = 2
    """`shards`: how many single-label shards a client holds."""
    labels_per_client: Annotated[
        Population, OnlyIf(takes("partition.scheme", "partition", "labels_per_client"))
    ] = 2
    """`labels`: how many labels a client holds."""
    samples_per_client: Annotated[
        Annotated[Whole, Field(ge=1, le=10**6)],
        OnlyIf(takes("partition.scheme", "partition", "samples_per_client")),
    ] = 50
    """`sampled`: how many images each (virtual) client draws."""
    validation: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the training set that the server keeps to choose by, taken before clients get any.

    Best round and cost to a target need it: what chooses on the test set flatters what it reports there.
    """
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of each client's images that it keeps for testing and never trains on: stratified over its
    labels, drawn by the seed, at least one. Where clients may share images, as under `sampled`, it is drawn
    before they are dealt, so that no client trains on what another is tested on. `evaluation.clients` measure
    on it."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What schemes are called with, by name."""
        return self.model_dump(exclude={"scheme", "clients", "validation", "holdout"})
