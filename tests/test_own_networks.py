"""Networks of one's own as people write them: tied and frozen weights, tables, layers that are run twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedfmd
from fedfmd.algorithms import Algorithm, ClientSide, Visit
from fedfmd.costs.macs import Macs, model_cost
from fedfmd.errors import UserError
from fedfmd.nn.networks import without_counters
from fedfmd.nn.vector import Layout, bind, carried
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.lifecycle import open_experiment

CHANNELS, TOKENS = 8, 64


class Plain(nn.Module):
    """A convolution and a classifier."""

    def __init__(self, num_classes: int, in_channels: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, CHANNELS, 4, 4)
        self.head = nn.Linear(CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.stem(x).mean((2, 3)))


class Rich(nn.Module):
    """Much of what a federation has to get right, in one network for images of 32 pixels."""

    order: Tensor
    places: Tensor
    scale: Tensor

    def __init__(self, num_classes: int, in_channels: int = 3):
        super().__init__()
        self.rate = float(torch.linspace(0, 0.5, 3)[1].item())
        self.stem = nn.Conv2d(in_channels, CHANNELS, 4, 4)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.own = nn.InstanceNorm2d(CHANNELS, track_running_stats=True)
        self.frozen = nn.Linear(CHANNELS, CHANNELS).requires_grad_(False)
        self.query, self.key = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.key.weight = self.query.weight
        self.drop = nn.Dropout(self.rate)
        self.register_buffer("order", torch.arange(TOKENS).flip(0))
        self.register_buffer("places", torch.linspace(0, 1, TOKENS)[:, None], persistent=False)
        self.register_buffer("scale", torch.full((CHANNELS,), 0.5))
        self.table = torch.linspace(1, 2, TOKENS)[:, None]
        self.head = nn.Linear(CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.own(self.norm(self.stem(x))))
        tokens = x.flatten(2).transpose(1, 2)[:, self.order] + self.places * self.table
        for _ in range(2):
            tokens = tokens + self.frozen(tokens)
        attention = (self.query(tokens) @ self.key(tokens).transpose(1, 2)).softmax(-1)
        return self.head(self.drop((attention @ tokens) * self.scale).mean(1))


RICH_CARRIED = {
    *("stem.weight", "stem.bias", "norm.weight", "norm.bias", "query.weight", "query.bias", "key.bias"),
    *("head.weight", "head.bias", "norm.running_mean", "norm.running_var"),
    *("own.running_mean", "own.running_var", "frozen.weight", "frozen.bias", "scale"),
}


class Counting(Plain):
    steps: Tensor

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Any:
        self.steps += self.training
        return super().forward(x)


class Leaking(Plain):
    seen: Tensor

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.seen += x.mean()
        return super().forward(x)


class Auxiliary(Plain):
    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class AlwaysDropping(Plain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(F.dropout(x, 0.5))


class NotANumber(Plain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * float("nan")


class Doubled(Plain):
    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.double()

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.double())


class Cumulative(Plain):
    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.norm = nn.BatchNorm2d(CHANNELS, momentum=None)


class Detached(Plain):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).detach()


class Pulled(Algorithm):
    """Pull every parameter towards where the visit began, which it holds by parameter."""

    def client(self, visit: Visit) -> ClientSide:
        return PulledClient(visit)


class PulledClient(ClientSide):
    def __init__(self, visit: Visit):
        self.start = visit.by_parameter(visit.start[: visit.layout.parameters])

    def gradient(self, parameters: Any) -> None:
        for parameter, start in zip(parameters, self.start, strict=True):
            parameter.grad.add_(parameter.detach() - start)


def document(network: str, **backend: Any) -> dict[str, Any]:
    return {
        "name": "own-network",
        "data": {"train_samples": 80, "test_samples": 20},
        "partition": {"scheme": "iid", "clients": 4},
        "model": {"name": f"{__name__}:{network}"},
        "client": {"batch_size": 10},
        "server": {"rounds": 2, "cohort": 2, "strategy": "fedadam"},
        "algorithms": {f"{__name__}:Pulled": {}},
        "backend": {"kind": "inline", **backend},
        "logging": {"tensorboard": False},
    }


def test_a_state_has_its_floats_once_and_what_is_trained_first() -> None:
    model = without_counters(Rich(10))
    layout = Layout.of(model)
    assert set(layout.names) == RICH_CARRIED
    assert layout.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert model_cost(model, (3, 32, 32)).state_elements == layout.elements
    vector = bind(model)
    with torch.no_grad():
        vector[:] = torch.arange(len(vector))
    assert model.get_submodule("key").weight is model.get_submodule("query").weight
    assert all(torch.equal(layout.views(vector)[n], tensor) for n, tensor in carried(model).items())


def test_all_work_is_counted_wherever_it_is_done() -> None:
    """The convolution, twice the frozen layer, query and key, two products of attention, the classifier."""
    linear = 4 * TOKENS * CHANNELS**2 + 2 * TOKENS**2 * CHANNELS + CHANNELS * 10
    cost = model_cost(Rich(10), (3, 32, 32))
    assert cost.macs_by_kind == Macs(conv=TOKENS * CHANNELS * 3 * 16, linear=linear)
    assert cost.generic == ("Rich",)


def test_a_layer_of_many_small_images_counts_for_all_of_them() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mix = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            halves = torch.cat(x.chunk(2, dim=3))
            return self.mix(self.conv(halves).flatten(2).transpose(1, 2)).mean((0, 1))[None]

    cost = model_cost(Windows(), (3, 8, 16))
    assert cost.macs_by_kind == Macs(conv=2 * 36 * 4 * 27, linear=2 * 36 * 4 * 5)


def test_attention_of_pytorch_counts_in_full() -> None:
    """Its fast path for inference is one operation, of which PyTorch's counter knows nothing."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    projections, products, feed_forward = 4 * 5 * 8 * 8, 2 * 5 * 5 * 8, 2 * 5 * 8 * 16
    assert model_cost(model, (5, 8)).forward_macs == projections + products + feed_forward
    assert torch.backends.mha.get_fastpath_enabled()


class Recurrent(nn.Module):
    """Reads an image of (3, 4, 5) row by row."""

    def __init__(self, kind: Callable[..., nn.Module], gates: int) -> None:
        super().__init__()
        self.rows, self.macs_of_rows = kind(15, 6, batch_first=True), 4 * gates * 6 * (15 + 6)

    def forward(self, x: Tensor) -> Tensor:
        after: Tensor = self.rows(x.transpose(1, 2).flatten(2))[0]
        return after[:, -1]


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_count_in_full(kind: Callable[..., nn.Module], gates: int) -> None:
    """oneDNN's LSTM is one operation, of which PyTorch's counter knows nothing."""
    model = Recurrent(kind, gates)
    assert model_cost(model, (3, 4, 5)).forward_macs == model.macs_of_rows
    assert torch.backends.mkldnn.enabled


PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "matrix and vector": (lambda x: x @ torch.ones(8), 6 * 8),
    "and a sum": (lambda x: torch.addmv(torch.ones(6), x, torch.ones(8)), 6 * 8),
    "two vectors": (lambda x: x.flatten() @ torch.ones(48), 48),
    "sum of products": (lambda x: torch.addbmm(torch.ones(6, 5), x[None], torch.ones(1, 8, 5)), 6 * 8 * 5),
    "bilinear": (lambda x: F.bilinear(x, x[:, :4], torch.ones(5, 8, 4)), 6 * 5 * (8 * 4 + 8)),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_of_every_kind_count(product: str) -> None:
    compute, macs = PRODUCTS[product]

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return compute(x[0])

    assert model_cost(Own(), (6, 8)).forward_macs == macs


def test_a_run_trains_and_gives_back_what_it_measured(tmp_path: Path) -> None:
    result = fedfmd.simulate(document("Rich"), out=tmp_path / "run")
    model, start = fedfmd.load_model(tmp_path / "run"), Rich(10)
    assert not torch.equal(model.state_dict()["key.weight"], start.key.weight)
    assert model.get_submodule("key").weight is model.get_submodule("query").weight
    data, card = open_experiment(RunDirectory.open(tmp_path / "run")).dataset, fedfmd.read_card(result.path)
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    with torch.no_grad():
        logits = model((torch.from_numpy(data.test_images) / 255 - mean) / std)
    loss = float(F.cross_entropy(logits, torch.from_numpy(data.test_labels)))
    assert loss == pytest.approx(result.rounds["test_loss"].iloc[-1], rel=1e-5)


@pytest.mark.slow
def test_two_processes_give_the_same_bits(tmp_path: Path) -> None:
    one, two = (
        fedfmd.simulate(document("Rich", workers=workers), out=tmp_path / str(workers)) for workers in (1, 2)
    )
    files = [(result.path / "model.safetensors").read_bytes() for result in (one, two)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("Counting", "training changes its steps, which no client sends or keeps"),
        ("Leaking", "training changes its seen, which no client sends or keeps"),
        ("Auxiliary", "two images give tuple in training mode, where logits are \\(2, 10\\)"),
        ("AlwaysDropping", "it draws at random in evaluation mode"),
        ("NotANumber", "two images give logits in evaluation mode that are NaN or infinite"),
        ("Doubled", "its stem.weight is torch.float64"),
        ("Cumulative", "its norm has momentum = None"),
        ("Detached", "does not require grad"),
    ],
)
def test_a_network_that_no_federation_can_train_is_refused_before_a_run(
    network: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fedfmd.simulate(document(network), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
