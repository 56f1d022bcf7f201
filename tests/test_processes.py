"""Training with several processes, which find in their environment what torchrun writes there."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import EMPTY_SHEETS
from nursery import Forked, Nursery, together
from safetensors.torch import load_file
from torch import nn

from base_residual.config.presets import Layer
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.errors import ConfigError, TrainingError
from base_residual.evaluation import evaluate
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model, load_model
from base_residual.training.batches import Batches
from base_residual.training.distributed import Processes, is_first_process, local_device, process_group
from base_residual.training.sync_batch_norm import SyncBatchNorm, leave_uncompiled, synchronise_batch_norms
from base_residual.training.trainer import Trainer

MakeConfig = Callable[..., Config]
Start = Callable[..., "list[Forked]"]
CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
DEVICES = ["cpu", pytest.param("cuda", marks=CARD)]
WORKER = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import yaml
from base_residual.config.resolve import make_config
from base_residual.training import distributed
from base_residual.errors import BaseResidualError
from base_residual.training.trackers import Tracker
from base_residual.training.trainer import Trainer

def assert_group_has_ended():  # a thread of it that Python ends before would abort it, or keep it for ever
    left = [name for task in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := task.read_text())]
    assert distributed._unfinished or not left, left

class Signal(Tracker):
    def step(self, epoch, done, steps):
        Path(sys.argv[2]).write_text(f"{epoch} {done}")

config = make_config(yaml.safe_load(Path(sys.argv[1]).read_text()))
try:
    Trainer(config, trackers=[Signal()], resume="--resume" in sys.argv).fit()
except BaseResidualError as error:
    print(f"Error: {error}")
    assert_group_has_ended()  # while the error, with the calls that it came through, is still there
    sys.exit(2)
assert_group_has_ended()
"""


EVALUATOR = """
import json
import sys
import torch
torch.set_num_threads(1)
import yaml
from pathlib import Path
from base_residual.config.resolve import make_config
from base_residual.models.factory import load_model
from base_residual.data import open_dataset
from base_residual.evaluation import evaluate
from base_residual.training.distributed import process_group

config = make_config(yaml.safe_load(Path(sys.argv[1]).read_text()))
with process_group(torch.device("cpu")) as processes:
    rooms = open_dataset("simulated", split="val", config=config)
    indices = processes.share(len(rooms))
    found = evaluate(load_model(sys.argv[3]), rooms, indices=indices, gathered=processes.gathered)
    print(json.dumps(found.as_dict()))
"""


@pytest.fixture
def start(nursery: Nursery) -> Callable[..., list[Forked]]:
    """Starts as many processes as asked for, which train together or run another program."""

    def fork(config: Config, folder: Path, world: int, *arguments: str, program: str = WORKER) -> list[Forked]:
        (folder / "settings.yaml").write_text(config.to_yaml())
        return together(nursery, folder, world, program, folder / "settings.yaml", folder / "where", *arguments)

    return fork


def finish(workers: list[Forked] | list[subprocess.Popen[str]], code: int = 0) -> list[str]:
    """What each of them printed, once all have ended with that exit code."""
    try:
        said = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()  # one that hangs would slow down all tests after this
    assert [worker.returncode for worker in workers] == [code] * len(workers), said
    return said


def history(config: Config) -> list[dict[str, float]]:
    return [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]


# Steps so small that what sums are rounded to does not grow over the epochs.
GENTLE: Layer = {"trainer": {"learning_rate": 0.0005}}


def assert_close(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        # The correlation of a residual that has hardly begun to grow is decided by few pixels.
        ours, expected = (figures.pop("val/residual_detail_corr", 0.0) for figures in (mine, theirs))
        assert ours == pytest.approx(expected, abs=0.01)
        assert mine == pytest.approx(theirs, rel=2e-3, abs=2e-4)


def test_two_processes_give_the_loss_curve_of_one(tiny: MakeConfig, tmp_path: Path, start: Start) -> None:
    # 5 validation rooms and batches of 7: the shares are not equal, and the curve is the same nevertheless.
    sizes = {"simulation": {"val_rooms": 5}, "trainer": {"batch_size": 7, "epochs": 3}}
    alone, together = (tiny(GENTLE, sizes, {"tracking": {"experiment_name": name}}) for name in ("alone", "together"))
    Trainer(alone, trackers=[]).fit()
    finish(start(together, tmp_path, 2))
    assert_close(history(together), history(alone))
    one, two = (json.loads((c.run_dir / "evaluation.json").read_text())["metrics"] for c in (alone, together))
    assert two == pytest.approx(one, rel=2e-3)
    names = {path.name for path in together.run_dir.iterdir()}
    assert names == {path.name for path in alone.run_dir.iterdir()}


def test_unequal_shares_go_through_in_as_many_parts(tiny: MakeConfig, tmp_path: Path, start: Start) -> None:
    config = tiny({"trainer": {"batch_size": 7, "accumulate": 4, "epochs": 1}})  # shares of 4 and of 3
    finish(start(config, tmp_path, 2))
    assert len(history(config)) == 1


def test_several_processes_evaluate_to_the_same_figures(tiny: MakeConfig, tmp_path: Path, start: Start) -> None:
    config, model = tiny(), tmp_path / "model.safetensors"
    torch.manual_seed(0)
    save_checkpoint(model, create_model(config), 1, [])
    alone = evaluate(load_model(model), open_dataset("simulated", split="val", config=config)).as_dict()
    for said in finish(start(config, tmp_path, 3, str(model), program=EVALUATOR)):  # four rooms: unequal shares
        found = json.loads(said.splitlines()[-1])
        for part in ("metrics", "decomposition"):
            assert found[part] == pytest.approx(alone[part], rel=0, abs=1e-5)


def test_a_killed_process_ends_the_others_and_the_run_goes_on_with_another_number(
    tiny: MakeConfig, tmp_path: Path, start: Start
) -> None:
    whole, killed = (
        tiny(GENTLE, {"trainer": {"epochs": 4}, "tracking": {"experiment_name": name}}) for name in ("whole", "killed")
    )
    Trainer(whole, trackers=[]).fit()
    workers = start(killed, tmp_path, 2)
    give_up = time.monotonic() + 120
    while not (tmp_path / "where").exists() or not (tmp_path / "where").read_text().startswith(("2", "3")):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    workers[1].kill()
    said, _ = workers[0].communicate(timeout=120)
    workers[1].communicate()
    # Now and then gloo's own threads notice first and abort the process before it can say anything.
    assert workers[0].returncode in (2, -signal.SIGABRT), said
    if workers[0].returncode == 2:
        assert "has lost another one" in said
        assert "Traceback" not in said
    assert 1 <= len(history(killed)) < 4
    Trainer(killed, trackers=[], resume=True).fit()
    assert_close(history(killed), history(whole))


def test_a_run_that_was_interrupted_is_saved_at_the_same_step_by_all(
    tiny: MakeConfig, tmp_path: Path, start: Start
) -> None:
    # The other one computes its stages again, with all that the processes tell each other in them.
    whole, stopped = (
        tiny(GENTLE, {"trainer": {"epochs": 4, "recompute": again}, "tracking": {"experiment_name": name}})
        for name, again in (("whole", False), ("stopped", True))
    )
    Trainer(whole, trackers=[]).fit()
    workers = start(stopped, tmp_path, 2)
    give_up = time.monotonic() + 120
    while not (tmp_path / "where").exists():
        assert time.monotonic() < give_up
        time.sleep(0.02)
    for _ in range(2):  # one alone hears of it: from the cluster, and from torchrun, which passes it on
        workers[1].send_signal(signal.SIGTERM)
        time.sleep(0.02)
    said = finish(workers, code=2)
    assert all("Stopped in epoch" in text for text in said)
    finish(start(stopped, tmp_path, 2, "--resume"))
    assert_close(history(stopped), history(whole))


def test_a_folder_that_is_taken_ends_all_processes(tiny: MakeConfig, tmp_path: Path, start: Start) -> None:
    config = tiny({"trainer": {"epochs": 1}})
    Trainer(config, trackers=[]).fit()
    before = load_file(config.run_dir / "last.safetensors")
    said = finish(start(config, tmp_path, 2), code=2)
    assert "already holds a run" in said[0]
    after = load_file(config.run_dir / "last.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("words", "seed"), [((), 0), (("--resume",), 0), ((), 1)])
def test_machines_with_other_folders_or_settings_do_not_train_together(
    tiny: MakeConfig, tmp_path: Path, start: Start, words: tuple[str, ...], seed: int
) -> None:
    def in_folder(name: str, epochs: int, seed: int = 0) -> Config:
        trainer = {"epochs": epochs, "lr_schedule": "constant", "seed": seed}
        return tiny({"trainer": trainer, "tracking": {"results_dir": str(tmp_path / name)}})

    if words:
        Trainer(in_folder("begun", 1), trackers=[]).fit()
    begun, other = in_folder("begun", 2), in_folder("begun" if seed else "other", 2, seed)
    for rank, config in enumerate((begun, other)):
        (tmp_path / f"settings{rank}.yaml").write_text(config.to_yaml())
    own = "import os, sys; sys.argv[1] = sys.argv[1].replace('settings', 'settings' + os.environ['RANK'])\n"
    said = finish(start(begun, tmp_path, 2, *words, program=own + WORKER), code=2)
    assert all("The processes have other settings, different states in" in text for text in said)
    assert not (other.run_dir / "config.yaml").exists()


def test_a_process_that_ends_before_all_have_met_is_missed_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def meet(backend: str) -> None:
        raise RuntimeError(f"[third_party/{backend}/transport/tcp/pair.cc] Connection closed by peer")

    meeting = {"WORLD_SIZE": "3", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in meeting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", meet)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for device in (torch.device("cpu"), torch.device("cuda", 1)):
        with pytest.raises(TrainingError, match="Process 1 of 3 has lost another one"), process_group(device):
            pytest.fail("nobody has met")
    assert current == [torch.device("cuda", 1)]
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(ConfigError, match="MASTER_PORT is not set"), process_group(torch.device("cpu")):
        pytest.fail("nobody knows where to meet")


def test_processes_share_each_batch_and_leave_nothing_out() -> None:
    whole = list(Batches(20, 7, seed=1))
    shares = [list(Batches(20, 7, 1, Processes(rank, 3))) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert sorted(index for share in shares for index in share[step]) == sorted(batch)
    with pytest.raises(ConfigError, match="batch of 2 recordings cannot be shared by 3 processes"):
        Batches(20, 2, 1, Processes(0, 3))


def test_norms_are_replaced_with_the_same_weights_under_the_same_names() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(nn.BatchNorm2d(3)), nn.Flatten(), nn.BatchNorm1d(12))
    model(torch.randn(4, 2, 2, 2))
    before, x = model.state_dict(), torch.randn(4, 2, 2, 2)
    expected = model.eval()(x)
    synchronise_batch_norms(model)
    assert isinstance(model[1][0], SyncBatchNorm)
    assert isinstance(model[3], SyncBatchNorm)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_a_shared_norm_of_one_process_is_the_plain_one(
    kind: type[nn.Module], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)  # the sum over one process
    plain = kind(3).to(device)
    with torch.no_grad():
        plain.weight.uniform_()
        plain.bias.uniform_()
    both = nn.ModuleList([plain])
    shape = (6, 3, 5, 5) if kind is nn.BatchNorm2d else (6, 3)
    inputs = [torch.randn(shape, device=device, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    expected = plain(inputs[0])
    target = torch.randn_like(expected)
    (expected * target).sum().backward()
    statistics = [plain.running_mean.clone(), plain.running_var.clone()]
    plain.reset_running_stats()
    synchronise_batch_norms(both)
    found = both[0](inputs[1])
    (found * target).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close([both[0].running_mean, both[0].running_var], statistics)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)


@pytest.mark.parametrize("device", DEVICES)
def test_a_shared_norm_takes_bf16_and_keeps_its_statistics_in_full_precision(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    norms = [nn.ModuleList([nn.BatchNorm2d(3).to(device)]) for _ in range(2)]
    for norm in norms:
        synchronise_batch_norms(norm)
    torch.manual_seed(0)
    x = (3 + torch.randn(8, 3, 16, 16, device=device)).bfloat16()
    inputs = [x.float().requires_grad_(), x.clone().requires_grad_()]
    outputs = [norm[0](given) for norm, given in zip(norms, inputs, strict=True)]
    target = torch.randn_like(outputs[0])
    for output in outputs:
        (output.float() * target).sum().backward()
    assert outputs[1].dtype == inputs[1].grad.dtype == torch.bfloat16
    torch.testing.assert_close(outputs[1].float(), outputs[0], rtol=0.01, atol=0.01)
    torch.testing.assert_close(inputs[1].grad.float(), inputs[0].grad, rtol=0.02, atol=0.05)
    for mine, full in zip(norms[1][0].parameters(), norms[0][0].parameters(), strict=True):
        torch.testing.assert_close(mine.grad, full.grad, rtol=0.02, atol=0.5)
    for mine, full in zip(norms[1][0].buffers(), norms[0][0].buffers(), strict=True):
        torch.testing.assert_close(mine, full)


def test_a_shared_norm_knows_a_small_variance_around_a_large_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    plain = nn.BatchNorm1d(3)
    plain.running_mean.fill_(200)
    both = nn.ModuleList([copy.deepcopy(plain)])
    synchronise_batch_norms(both)
    x = 200 + 0.01 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(both[0](x), plain(x), rtol=0, atol=0.02)  # of numbers about 1; 1 off without
    torch.testing.assert_close(both[0].running_var, plain.running_var, rtol=1e-4, atol=0)
    torch.testing.assert_close(both[0].running_mean, plain.running_mean)
    flat = torch.full((64, 3), 7.3)
    for _ in range(50):
        both[0](flat)
    assert (both[0].running_var >= 0).all()


def test_each_process_has_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_device(torch.device("cuda")) == torch.device("cuda")
    assert is_first_process()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("RANK", "11")
    assert is_first_process()  # there is no other
    monkeypatch.setenv("WORLD_SIZE", "12")
    assert local_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert local_device(torch.device("cuda:1")) == torch.device("cuda", 1)  # alone on its machine
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="All processes here would be on cuda:1"):
        local_device(torch.device("cuda:1"))
    assert local_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ConfigError, match="Several processes cannot train on mps"):
        local_device(torch.device("mps"))
    assert not is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(ConfigError, match="Process 4 of this machine finds 4 graphics cards"):
        local_device(torch.device("cuda"))
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'many'; expected is a whole number"):
        is_first_process()


@pytest.fixture
def two_nodes() -> Iterator[tuple[list[str], list[str]]]:
    """Two machines on one cable, as far as the network can tell: how to start a command on each."""
    tag = f"br{os.getpid()}"
    nodes = [f"{tag}a", f"{tag}b"]
    try:
        for node in nodes:
            ip("netns", "add", node)
        ip("link", "add", "cable", "netns", nodes[0], "type", "veth", "peer", "name", "cable", "netns", nodes[1])
        for number, node in enumerate(nodes, start=1):
            ip("-n", node, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            for link in ("cable", "lo"):
                ip("-n", node, "link", "set", link, "up")
        yield tuple(["ip", "netns", "exec", node] for node in nodes)
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "delete", node], check=False, capture_output=True)


def ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("two nodes need the command ip, of iproute2")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine lets nobody make network namespaces: {error.stderr.strip()}")


def test_two_nodes_train_together_by_the_documented_command(
    tiny: MakeConfig, tmp_path: Path, two_nodes: tuple[list[str], list[str]]
) -> None:
    alone, together = (
        tiny({"trainer": {"epochs": 1}, "tracking": {"experiment_name": name}}) for name in ("alone", "together")
    )
    Trainer(alone, trackers=[]).fit()
    (tmp_path / "settings.yaml").write_text(together.to_yaml())
    # Python runs it at its start; torchrun itself has no rank.
    (tmp_path / "sitecustomize.py").write_text(f"import os\nif 'RANK' in os.environ:\n    exec({EMPTY_SHEETS!r})")
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    launch = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.77.0.1", "--master-port", "29400"]
    training = ["-m", "base_residual", "train", "--config", str(tmp_path / "settings.yaml")]
    nodes = [
        subprocess.Popen(
            [*enter, sys.executable, "-m", "torch.distributed.run", *launch, "--node-rank", str(rank), *training],
            env=os.environ | path | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, enter in enumerate(two_nodes)
    ]
    first, second = finish(nodes)
    assert "Success criteria" in first
    assert "Success criteria" not in second
    assert "Epoch 1" not in second
    assert_close(history(together), history(alone))


def test_shared_norms_stay_out_of_a_compilation() -> None:
    network, x = nn.Sequential(SyncBatchNorm(3)).eval(), torch.zeros(2, 3, 4)
    assert torch._dynamo.explain(network)(x).graph_count == 1
    leave_uncompiled(network)
    assert torch._dynamo.explain(network)(x).graph_count == 0
