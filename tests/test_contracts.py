"""A name of something that is no part of its kind is refused in one line, before anything is written."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import fedfmd
from fedfmd import registry
from fedfmd.aggregation import stepped
from fedfmd.algorithms import Algorithm, Algorithms
from fedfmd.config.experiment import make_config
from fedfmd.config.outlines import ASKED
from fedfmd.contracts import CONTRACTS, check_part
from fedfmd.errors import InputWarning, RunError, UserError
from fedfmd.modules import look_in
from fedfmd.nn.submodel import WHOLE
from fedfmd.records.rundir import RunDirectory
from fedfmd.rounds.inline import InlineExecutor
from fedfmd.rounds.lifecycle import execute, start_run
from fedfmd.rounds.rehearsal import check_makes

NO_PARTS = """
from dataclasses import replace

import torch

from fedfmd.algorithms import Algorithm, ClientSide, Finished


def nothing(*places, **named):
    return None


def leaves(*places, **named):
    raise SystemExit(0)


def fails(*places, **named):
    raise KeyError("of mine")


def numpy_numbers(drawing, wanted):
    for client in drawing.rng.choice(4, wanted, replace=False):
        drawing.offer(client)


def halves(drawing):
    drawing.offer(1.0)


def doubles(drawing):
    drawing.chosen += [1, 1]


def beyond_all(drawing):
    drawing.chosen += [9]


def late(drawing):
    if drawing.round > 1:
        raise KeyError("round")


def late_list(drawing):
    return [0] if drawing.round > 1 else None


def nowhere(updates):
    return torch.stack(updates).mean(0) * float("nan")


class Strategy:
    def __init__(self):
        self.state = {}

    def step(self, weights, mean_update):
        return weights + mean_update

from fedfmd.algorithms import Algorithm, ClientSide, Finished
from fedfmd.nn.submodel import Share
from fedfmd.planning.policy import OverBudget
class NoStep(Strategy):
    step = None


class OddStep(Strategy):
    def step(self):
        return None


class Short(Strategy):
    def step(self, weights, mean_update):
        return weights[:3]


class Listed(Strategy):
    def __init__(self):
        self.state = []


class Closure:
    def __init__(self, parameters):
        pass

    def restart(self, learning_rate):
        pass

    def step(self, closure):
        pass


class NoRestart(Closure):
    restart = property()

    def step(self):
        pass


class Whole:
    def form(self, elements):
        return {"values": (torch.float32, elements)}

    def compress(self, update, rng):
        return {"values": update}

    def restore(self, tensors, elements):
        return tensors["values"]


class Less(Whole):
    def compress(self, update, rng):
        return {"values": update[:2]}


class Lost(Whole):
    def restore(self, tensors, elements):
        return None


class Pairs(Whole):
    def form(self, elements):
        return [(torch.float32, elements)]


class Bare(Whole):
    def compress(self, update, rng):
        return [update]


class Hidden(Strategy):
    velocity = 0

    def step(self, weights, mean_update):
        self.velocity = self.velocity + mean_update
        return weights + self.velocity


def emptying(updates):
    mean = torch.stack(updates).mean(0)
    updates.clear()
    return mean


class Counts(Strategy):
    def step(self, weights, mean_update):
        self.state["steps"] = 1
        return weights


class Waves(Strategy):
    def step(self, weights, mean_update):
        self.state["wave"] = torch.zeros(2, dtype=torch.complex64)
        return weights


class Listing(torch.nn.Conv2d):
    def forward(self, x):
        return [super().forward(x)]


class Raising(torch.nn.Conv2d):
    def forward(self, x):
        raise KeyError("of mine")


class Uncounted(torch.nn.Conv2d):
    def macs(self, inputs, outputs, pixels):
        return None


class Lazy(torch.nn.LazyConv2d):
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding):
        super().__init__(out_channels, kernel_size, stride, padding)


class Counter(torch.nn.Conv2d):
    def __init__(self, *places, **named):
        super().__init__(*places, **named)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Fixed(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.classes = num_classes

    def forward(self, images):
        return images.flatten(1)[:, : self.classes]


class Log:
    def write(self, round, figures):
        raise ValueError("of round %d" % round)

    def close(self):
        raise ValueError("of the end")


class Ending(Log):
    def write(self, round, figures):
        pass


def alike(labels, clients):
    return [range(20)] * clients


def ragged(labels, clients):
    return [[0], [[1], [2, 3]]] * (clients // 2)


def chosen(draw):
    return [0, 1]


def endless(request):
    return replace(request.full, epochs=10**9)


def empty(request):
    return replace(request.full, batch_size=0)


def tireless(request):
    return replace(request.full, steps=10**30)


def greedy(request):
    return replace(request.full, batch_size=10**12)


def wider(request):
    return replace(request.full, share=Share(width=2.0))


def no_number(request):
    return replace(request.full, share=Share(width=float("nan")))


def twice(request):
    return replace(request.full, share=Share(kernels=(1, 1)))


def beyond(request):
    return replace(request.full, share=Share(kernels=(4,)))


def deeper(request):
    return replace(request.full, share=Share(depth=9))


def headless(request):
    return replace(request.full, share=Share(depth=1))


def backwards(request):
    return replace(request.full, share=Share(rotation=-3))


def poet(request):
    return replace(request.full, why="two\\nlines")


def silent(request):
    return OverBudget(request.full, None)


def everybody(draw):
    for client in range(4):
        draw.offer(client)


def outside(draw):
    draw.offer(99)


def narrow(num_classes, width):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, num_classes))


def few_classes(num_classes, width):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3))


class Own(Algorithm):
    def client(self, visit):
        return Side()


class Side(ClientSide):
    def trained(self):
        pass


class NoVisit(Own):
    def client(self):
        return Side()


class NoSide(Own):
    def client(self, visit):
        return None


class Halves(Own):
    def weight(self, weight, staleness):
        return weight / 2


class Late(Own):
    def server_step(self, extra, mean_extra, collected):
        raise KeyError("of the server")


class Divides(Algorithm):
    def client(self, visit):
        raise ZeroDivisionError("of one client")


class Unheard(Algorithm):
    def server_update(self, extra, mean_extra, collected):
        return extra


class UnheardSide(Algorithm):
    def client(self, visit):
        return Losing()


class Losing(ClientSide):
    def losses(self, loss, logits, labels):
        return 2 * loss


class Returns(Algorithm):
    def mean(self, mean, mean_extra, collected):
        return mean * 0


class Counted(Algorithm):
    def mean(self, mean, mean_extra, collected):
        self.state["rounds"] = self.state.get("rounds", 0) + 1


class Grows(Algorithm):
    def server_step(self, extra, mean_extra, collected):
        return torch.zeros(2)


class Stepping(Own):
    def client(self, visit):
        return Step()


class Step(ClientSide):
    def gradient(self, parameters):
        return [p.grad * 0 for p in parameters]


class NoShare(Algorithm):
    def share(self, share, round):
        return None


class Leaves(Algorithm):
    def mean(self, mean, mean_extra, collected):
        leaves()


class Objects(Algorithm):
    def allows(self):
        raise KeyError("of mine")


class Says(Algorithm):
    def allows(self):
        return "nope"


class Numbers(Own):
    def client(self, visit):
        return Number()


class Number(ClientSide):
    def loss(self, loss, logits, labels):
        return 1.0


class Silent(Own):
    def client(self, visit):
        return Zeros()


class Zeros(ClientSide):
    def finish(self, update, steps):
        return Finished(update=0 * update)


class Ends(Own):
    def client(self, visit):
        return End()


class End(ClientSide):
    def finish(self, update, steps):
        return None


class Cuts(Own):
    def client(self, visit):
        return Cut()


class Cut(ClientSide):
    def finish(self, update, steps):
        return Finished(update=update[:5])
"""
KEYS = {kind: contract.key for kind, contract in CONTRACTS.items() if kind != "logger"}
NO_PART = ("os:getcwd", "builtins:dict", "no_parts:nothing", "no_parts:fails", "no_parts:leaves")
OFFERS_NOBODY = ("selection", "no_parts:nothing")
"""All places are then filled uniformly: that is a selection."""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "no_parts.py").write_text(NO_PARTS)
    look_in(folder)
    return "no_parts"


def tiny(key: str, name: str) -> dict[str, Any]:
    """Return a small experiment that names a part."""
    config: dict[str, Any] = {
        "data": {"train_samples": 80, "test_samples": 20},
        "partition": {"scheme": "iid", "clients": 4},
        "model": {"name": "resnet8", "width": 0.25},
        "server": {"rounds": 1, "cohort": 2},
        "logging": {"tensorboard": False},
    }
    section, _, last = key.partition(".")
    if not last:
        return config | {section: {name: {}}}
    config.setdefault(section, {})[last] = [name] if key == "logging.loggers" else name
    return config


def test_all_that_checks_ask_of_a_kind_its_parts_may_say() -> None:
    for kind, asked in ASKED.items():
        assert kind == "algorithm" or set(asked) <= set(CONTRACTS[kind].states)


@pytest.mark.parametrize("kind", registry.HOMES)
def test_every_built_in_part_can_be_called_as_its_kind_is(kind: str) -> None:
    for name in registry.names(kind):
        if registry.origin(kind, name) is None:
            check_part(kind, name, ["source"] if name == "huggingface" else ())


@pytest.mark.parametrize(
    ("kind", "named"), [pair for pair in product(KEYS, NO_PART) if pair != OFFERS_NOBODY]
)
def test_what_is_no_part_of_its_kind_starts_no_run(
    kind: str, named: str, module: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        start_run(make_config(tiny(KEYS[kind], named)), tmp_path / "run")
    message = str(caught.value)
    assert KEYS[kind] in message
    assert named in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("server.strategy", "NoStep", "its step is called with .*cannot be called"),
        (
            "server.strategy",
            "OddStep",
            r"its step is called with \(weights, mean_update\): it is OddStep.step",
        ),
        ("server.strategy", "Short", r"a tensor \(3,\) of torch.float32, where the next state has the shape"),
        ("server.strategy", "Counts", r"its state\['steps'\] is 1, where checkpoints hold tensors of real"),
        ("server.strategy", "Waves", r"its state\['wave'\] is torch.complex64, where checkpoints"),
        ("compression.uplink", "Pairs", r"Pairs.form gives a list; needs {NAME: \(dtype, length\)}$"),
        ("compression.uplink", "Bare", "Bare.compress gives no dict of tensors by name$"),
        ("server.strategy", "Listed", "its state is a list, and must be a dictionary"),
        ("server.aggregation", "nothing", r"gives None, where an update has the shape \(300,\)"),
        ("client.optimizer", "Closure", "its step is called with .*missing a required argument: 'closure'"),
        ("client.optimizer", "NoRestart", r"has no restart\(learning_rate\)"),
        ("client.optimizer", "nothing", "makes None, which is no optimizer: it has no step"),
        ("compression.uplink", "Less", "compress makes .* and its form says"),
        ("compression.uplink", "Lost", "compressed update of shape NoneType; needs"),
        (
            "compression.uplink",
            "fails",
            r"fails when it is called: KeyError: 'of mine' \(.*no_parts.py:\d+\)",
        ),
    ],
)
def test_what_a_part_makes_is_tried_before_a_run(key: str, name: str, message: str, module: str) -> None:
    with pytest.raises(UserError, match=f"{key} = '{module}:{name}': .*{message}"):
        check_makes(make_config(tiny(key, f"{module}:{name}")))


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("partition.scheme", "ragged", "each client must get a list"),
        ("selection.kind", "chosen", "returns a list, where a selection offers clients to its drawing"),
        ("policy.kind", "nothing", "gives a NoneType, where a policy gives a ClientPlan or OverBudget"),
        (
            "policy.kind",
            "endless",
            "gives a plan with epochs = 1000000000, which is more than client.epochs = 1",
        ),
        ("policy.kind", "empty", "gives a plan with batch_size = 0, where whole numbers of 1 or more"),
        ("policy.kind", "tireless", r"gives a plan with steps = 10+, which is more than 10+"),
        ("policy.kind", "greedy", r"gives a plan with batch_size = 10+, which is more than 1000000"),
        ("policy.kind", "wider", r"gives a plan with width = 2.0, where a number above 0 to 1"),
        ("policy.kind", "no_number", r"gives a plan with width = nan, where a number above 0 to 1"),
        ("policy.kind", "twice", r"gives a plan with kernels = \(1, 1\), where each stands once"),
        (
            "policy.kind",
            "beyond",
            r"gives a plan with kernels = \(4,\), where a tuple of numbers from 0 to 3",
        ),
        ("policy.kind", "deeper", r"gives a plan with depth = 9, where 0, for all stages, to 2"),
        ("policy.kind", "headless", r"gives a plan with depth = 1, which needs model.exits"),
        ("policy.kind", "backwards", r"gives a plan with rotation = -3, where whole numbers from 0"),
        ("policy.kind", "poet", r"gives a plan with why = 'two.nlines', where a line of up to"),
        ("policy.kind", "silent", r"gives a plan with a reason = None, where a line of up to"),
        ("model.norm", "nothing", "makes None, which is no norm: it has no forward, parameters"),
        ("model.name", "narrow", r"builds no network for images of shape \(3, 32, 32\): mat1 and mat2"),
        ("model.name", "few_classes", r"builds no network .*: two images give \(2, 3\) in eval"),
        ("selection.kind", "everybody", "takes 4 clients where 2 are wanted; offer no more, or state indep"),
        ("selection.kind", "outside", "offers client 99; there are 0 to 3"),
        (
            "selection.kind",
            "halves",
            "fails when it is called: TypeError: 'float' object cannot be interpreted",
        ),
        ("selection.kind", "doubles", r"has taken \[1, 1\], where each is a number from 0 to 3, once"),
        ("selection.kind", "beyond_all", r"has taken \[9\], where each is a number from 0 to 3, once"),
    ],
)
def test_what_comes_of_a_part_is_looked_at(
    key: str, name: str, message: str, module: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{key} = '{module}:{name}': {message}"):
        start_run(make_config(tiny(key, f"{module}:{name}")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoSide", "algorithms.no_parts:NoSide: client gives None, not a ClientSide"),
        ("Ends", "algorithms.no_parts:Ends: finish gives None, not a Finished"),
        ("Cuts", r"finish gives as update a Tensor \(5,\) of torch.float32, not a Tensor \(\d+,\)"),
        ("Halves", r"algorithms.no_parts:Halves: weight gives 10.0, not a whole number"),
        ("Returns", "Returns: mean gives a Tensor; it changes what it is given in place, and returns None"),
        ("Counted", r"Counted: its state\['rounds'\] is 1, where checkpoints hold tensors of real numbers"),
        ("Stepping", "Stepping: gradient gives a list; it changes what it is given in place"),
        ("Grows", r"Grows: server_step gives a Tensor \(2,\) of torch.float32, not a Tensor \(0,\)"),
        (
            "Late",
            r"algorithm 'no_parts:Late' fails: KeyError: 'of the server' \(.*no_parts.py:\d+\); log.txt",
        ),
        ("Leaves", r"algorithm 'no_parts:Leaves' fails: SystemExit: 0 \(.*no_parts.py:\d+\); log.txt has"),
        (
            "UnheardSide",
            r"UnheardSide: client gives a Losing, which changes nothing: it has losses; did you mean loss\?",
        ),
        (
            "Divides",
            r"reasons: algorithm 'no_parts:Divides' fails: ZeroDivisionError: of one client \(.*.py:\d+\)",
        ),
        ("Numbers", "algorithm 'no_parts:Numbers' has returned something of no use: AttributeError: 'float'"),
    ],
)
def test_an_algorithm_that_goes_wrong_stops_the_run_with_the_reason(
    name: str, message: str, module: str, tmp_path: Path
) -> None:
    directory = start_run(make_config(tiny("algorithms", f"{module}:{name}")), tmp_path / "run")
    with pytest.raises(RunError, match=message):
        execute(directory, InlineExecutor)
    assert json.loads((directory.path / "summary.json").read_text())["status"] == "stopped"
    log = (directory.path / "log.txt").read_text()
    assert "stopped: " in log
    assert ("Traceback" in log) == (name in ("Late", "Leaves", "Numbers"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("late", r"round 2: selection.kind = 'no_parts:late': .*KeyError: 'round' \(.*no_parts.py:\d+\)"),
        ("late_list", "round 2: selection.kind = 'no_parts:late_list': returns a list, where a selection"),
    ],
)
def test_a_selection_that_goes_wrong_later_stops_the_run_with_the_reason(
    name: str, message: str, module: str, tmp_path: Path
) -> None:
    config = make_config(tiny("selection.kind", f"{module}:{name}"), {"server.rounds": 2})
    directory = start_run(config, tmp_path / "run")
    with pytest.raises(RunError, match=message):
        execute(directory, InlineExecutor)
    summary = directory.summary() or {}
    assert summary["status"] == "stopped"
    assert f"no_parts:{name}" in summary["reason"]
    assert "Traceback" in (directory.path / "log.txt").read_text()
    assert len(directory.rounds()) == 2


def test_a_model_that_becomes_nan_names_the_part_of_ones_own_that_moves_it(
    module: str, tmp_path: Path
) -> None:
    directory = start_run(make_config(tiny("server.aggregation", f"{module}:nowhere")), tmp_path / "run")
    message = "became NaN or infinite; lower server.learning_rate, or look at aggregation 'no_parts:nowhere'"
    with pytest.raises(RunError, match=message):
        execute(directory, InlineExecutor)


def test_a_selection_may_offer_numbers_of_numpy(module: str, tmp_path: Path) -> None:
    directory = start_run(make_config(tiny("selection.kind", f"{module}:numpy_numbers")), tmp_path / "run")
    assert execute(directory, InlineExecutor)["rounds"] == 1


def test_a_share_that_is_none_is_an_error_of_its_algorithm(module: str) -> None:
    algorithms = Algorithms(make_config(tiny("algorithms", f"{module}:NoShare")))
    with pytest.raises(RunError, match="no_parts:NoShare: share gives None, not a Share"):
        algorithms.share(WHOLE, 1)


def test_an_algorithm_that_only_writes_finish_takes_part(module: str, tmp_path: Path) -> None:
    directory = start_run(make_config(tiny("algorithms", f"{module}:Silent")), tmp_path / "run")
    execute(directory, InlineExecutor)
    first, last = (row["test_loss"] for row in directory.rounds())
    assert first == last


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        (
            "model.conv",
            "Listing",
            r"model.conv = 'no_parts:Listing': builds no network for images .*'list' object",
        ),
        (
            "model.conv",
            "Raising",
            r"model.conv = 'no_parts:Raising': builds no network .*: 'of mine' \(.*no_parts.py:\d+\)$",
        ),
        ("model.conv", "Uncounted", "Uncounted.macs gives None, where a fedfmd.nn.Macs is asked for"),
        ("model.conv", "Lazy", "model.conv = 'no_parts:Lazy': its weight has no shape yet: build no lazy"),
        ("model.conv", "Counter", r"training changes its \S+calls, which no client sends or keeps"),
        (
            "model.name",
            "Fixed",
            "model.name = 'no_parts:Fixed': has no parameters: there is nothing to train",
        ),
        ("algorithms", "Objects", "algorithms.no_parts:Objects: allows fails: KeyError: 'of mine'"),
        (
            "algorithms",
            "Unheard",
            r"Unheard: changes nothing: it has server_update; did you mean server_step\?",
        ),
        ("algorithms", "Says", "algorithms.no_parts:Says: allows gives a str, where it yields reasons"),
    ],
)
def test_a_network_or_an_algorithm_of_no_use_is_told_in_one_line(
    key: str, name: str, message: str, module: str, tmp_path: Path
) -> None:
    config = tiny(key, f"{module}:{name}")
    if name == "Fixed":
        del config["model"]["width"]
    with pytest.raises(UserError, match=message) as caught:
        start_run(make_config(config), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Log", "logging: Log.write fails: ValueError: of round 0"),
        ("Ending", "logging: Ending.close fails: "),
    ],
)
def test_of_a_logger_s_faults_the_first_is_told(name: str, message: str, module: str, tmp_path: Path) -> None:
    config = make_config(tiny("logging.loggers", f"{module}:{name}"), {"backend.kind": "inline"})
    with pytest.raises(RunError, match=message) as caught:
        fedfmd.simulate(config, out=tmp_path / "run")
    assert "of the end" not in str(caught.value) or name == "Ending"
    assert RunDirectory.open(tmp_path / "run").finished() == (name == "Ending")


def test_an_optimiser_that_fails_later_stops_the_run_with_the_reason() -> None:
    class Late:
        def __init__(self) -> None:
            self.state: dict[str, torch.Tensor] = {}

        def step(self, weights: torch.Tensor, mean_update: torch.Tensor) -> torch.Tensor:
            del mean_update
            raise ZeroDivisionError(f"{len(weights)} weights")

    weights = torch.zeros(5)
    with pytest.raises(
        RunError, match=r"Late: step fails: ZeroDivisionError: 5 weights \(.*test_contracts.py"
    ):
        stepped(Late(), weights, weights.double())


@pytest.mark.parametrize(
    ("key", "name", "instead"),
    [
        ("server.strategy", "flwr.serverapp.strategy:FedAdam", "'fedadam'"),
        ("server.aggregation", "flwr.serverapp.strategy:Krum", "'krum'"),
        ("partition.scheme", "flwr_datasets.partitioner:DirichletPartitioner", "'dirichlet'"),
    ],
)
def test_a_part_of_flower_s_is_refused_with_what_takes_its_place(key: str, name: str, instead: str) -> None:
    with pytest.raises(UserError, match=f"{key} = '{name}': is Flower's, .*allowed: .*{instead}") as caught:
        make_config(tiny(key, name))
    assert "docs/flower.md" in str(caught.value)
    assert len(str(caught.value)) < 500


MISSPELT = {
    "of an algorithm, beside a right one": (
        """
class Slip(Algorithm):
    def weight(self, weight, staleness):
        return weight
    def servr_step(self, extra, mean_extra, collected):
        return extra
""",
        "algorithms.{module}:Slip",
        "class Slip has servr_step, which nobody looks at; did you mean server_step?",
    ),
    "of a client's side": (
        """
class Side(ClientSide):
    def loss(self, loss, logits, labels):
        return loss
    def gradeint(self, parameters):
        pass
class Slip(Algorithm):
    def client(self, visit):
        return Side()
""",
        "algorithms.{module}:Slip",
        "class Side has gradeint, which nobody looks at; did you mean gradient?",
    ),
    "an attribute of an algorithm": (
        """
class Slip(Algorithm):
    need_mean = True
    def weight(self, weight, staleness):
        return weight
""",
        "algorithms.{module}:Slip",
        "class Slip has need_mean, which nobody looks at; did you mean needs_mean?",
    ),
    "of a dynamic convolution": (
        """
class Slip(DynamicConv2d):
    kernel_head = ("logits",)
""",
        "model.conv",
        "class Slip has kernel_head, which nobody looks at; did you mean kernel_heads?",
    ),
    "of a plain convolution": (
        """
class Slip(torch.nn.Conv2d):
    slice = {"width"}
""",
        "model.conv",
        "has slice, which nobody looks at; did you mean slices?",
    ),
    "of a function": (
        """
def Slip(drawing):
    drawing.offer(0)
Slip.learn = False
""",
        "selection.kind",
        "has learn, which nobody looks at; did you mean learns?",
    ),
}
"""What is written, the key that names it, and what is said of it."""


@pytest.mark.parametrize("case", MISSPELT)
def test_what_a_part_has_under_a_misspelt_name_is_told(case: str, tmp_path: Path) -> None:
    written, key, message = MISSPELT[case]
    module = f"misspelt_{list(MISSPELT).index(case)}"
    head = "import torch\nimport fedfmd\nfrom fedfmd.algorithms import Algorithm, ClientSide\n"
    head += "from fedfmd.nn import DynamicConv2d\n"
    (tmp_path / f"{module}.py").write_text(head + written.replace("{module}", module))
    look_in(tmp_path)
    section, _, last = key.format(module=module).partition(".")
    value: Any = {} if section == "algorithms" else f"{module}:Slip"
    with pytest.raises(UserError, match=re.escape(message)):
        make_config({section: {last: value}})


def test_what_nobody_asks_of_a_kind_is_not_said_beside_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._parts, "selection", dict(registry._parts["selection"]))

    @registry.register("selection", "seer", learns=False, sees_losses=True)
    def seer(drawing: Any) -> None:
        drawing.offer(0)

    message = "is registered with sees_losses; of a selection can be said: timed, judges, looks_at_losses, "
    with pytest.raises(UserError, match=message):
        make_config({"selection": {"kind": "seer"}})


def test_other_names_of_ones_own_are_nobody_s_business() -> None:
    """As are those that are near to something the class has itself."""

    class Own(Algorithm):
        def weight(self, weight: int, staleness: int) -> int:
            return self.weights(weight)

        def weights(self, weight: int) -> int:
            return weight

        def shape(self) -> None: ...

        def _servr_step(self) -> None: ...

    class Heir(Own):
        def weighty(self) -> None: ...

    assert Heir.weight is Own.weight


def test_an_optimiser_that_keeps_something_beside_its_state_is_told(module: str) -> None:
    with pytest.warns(InputWarning, match=f"server.strategy = '{module}:Hidden': keeps more from one step"):
        check_makes(make_config(tiny("server.strategy", f"{module}:Hidden")))


def test_images_that_several_clients_get_are_told(module: str, tmp_path: Path) -> None:
    told = f"partition.scheme = '{module}:alike': gives 20 images to several clients"
    with pytest.warns(InputWarning, match=told):
        start_run(make_config(tiny("partition.scheme", f"{module}:alike")), tmp_path / "run")


def test_an_aggregation_may_empty_the_list_that_it_is_given(module: str) -> None:
    check_makes(make_config(tiny("server.aggregation", f"{module}:emptying")))


def test_an_error_is_said_to_lie_where_their_code_called_ours(module: str) -> None:
    with pytest.raises(UserError, match=rf"TypeError: .* \(.*{module}.py:\d+\)$"):
        check_makes(make_config(tiny("selection.kind", f"{module}:halves")))
