from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from eplb_opt import Instance, Topology, documents
from eplb_opt.gap import measure_gap
from eplb_opt.policies.names import InvalidPlacementError, PolicyError, PolicyTimeoutError
from eplb_opt.policies.process import Limits
from eplb_opt.policies.runner import PolicyRunner
from tests.command_line import PROGRAM, heed_interrupts
from tests.eplb_opt.policies import hostile

FILE = Path(__file__).with_name("hostile.py")
INSTANCE = Instance([[5, 3, 2, 1], [1, 1, 1, 9]], Topology(6, 3))
LIMITS = Limits(timeout=2, memory=500 * 2**20)


@pytest.fixture(scope="module")
def runner():
    with PolicyRunner(LIMITS) as found:
        yield found


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        ("raises", PolicyError, r"RuntimeError: \\x1b\[31mfirst line"),
        ("stops_at_nothing", PolicyTimeoutError, "no answer within 2 s"),
        ("loops_in_c", PolicyTimeoutError, "no answer within 2 s"),
        ("leaves", PolicyError, "exit code 3"),
        ("exits", PolicyError, "SystemExit: enough"),
        ("crashes", PolicyError, "SIGSEGV"),
        ("hogs_numpy", PolicyError, "out of memory: the limit is 0.488"),
        ("hogs_torch", PolicyError, "out of memory: the limit is 0.488"),
        ("hogs_slowly", PolicyError, "out of memory: the limit is 0.488"),
        ("enormous", PolicyError, "out of memory: the limit is 0.488"),
        ("dies_by_a_signal_without_a_name", PolicyError, "ended by signal 40"),
        ("stops_the_clock", PolicyError, "took nan s, it says|reports a call of nan s"),
        ("talks_back", PolicyError, "the answer is a header"),
    ],
)
def test_each_misbehaviour_is_an_error_of_one_line(runner, function, error, message):
    with pytest.raises(error, match=message) as caught:
        runner.run(f"{FILE}:{function}", INSTANCE)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def answered(runner, name: str):
    (load,) = [load for load, function in hostile.ANSWERS.items() if function.__name__ == name]
    return runner.run(f"{FILE}:answers_by_load", Instance([[load, 1, 1, 1]] * 2, Topology(6, 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("writes_into_input", "wrote into its input"),
        ("wrong_shape", "7"),
        ("nan", "integer"),
        ("strings", "not numbers"),
        ("nothing", "returned a NoneType"),
    ],
)
def test_an_answer_that_is_no_placement_is_an_error_of_one_line(runner, name, message):
    with pytest.raises(InvalidPlacementError, match=message) as caught:
        answered(runner, name)
    assert "\n" not in str(caught.value)


def test_a_policy_that_prints_megabytes_is_fine(runner, capfd):
    run = answered(runner, "prints")
    assert run.placement.phy2log.shape == (2, 6)
    assert run.runtime > 0
    assert run.first_call > 0
    assert run.import_time > 0
    assert len(capfd.readouterr().out) < 1000


def test_a_function_runs_in_this_process(runner):
    called_in = []

    def place(weight, *_):
        called_in.append(os.getpid())
        return [[0, 1, 2, 3, 0, 1]] * len(weight)

    run = runner.run(place, INSTANCE, once=True)
    assert run.placement.phy2log.tolist() == [[0, 1, 2, 3, 0, 1]] * 2
    assert run.import_time is None
    assert called_in == [os.getpid()]
    with pytest.raises(PolicyError, match="ZeroDivisionError"):
        runner.run(lambda *_: 1 / 0, INSTANCE)


@pytest.mark.slow
def test_the_others_are_measured_all_the_same():
    names = [f"{FILE}:{f}" for f in ("leaves", "stops_at_nothing", "good")]
    report = measure_gap(INSTANCE, ["deepseek", *names], policy_timeout=1.0)
    found = [policy.status for policy in report.policies]
    assert found == ["ok", "error", "timeout", "ok"]
    assert report.policies[0].import_time is None
    assert documents.gap(report)["policies"][3]["import_s"] > 0


def test_a_process_serves_many_instances_and_comes_back_after_a_crash(tmp_path):
    file = tmp_path / "policy.py"
    file.write_text(
        "import os, torch\n"
        "def rebalance_experts(weight, replicas, *_):\n"
        "    if weight.max() > 100: os._exit(1)\n"
        "    answer = torch.arange(replicas) % 4\n"
        "    answer[-1] = os.getpid() % 4\n"
        "    return answer.repeat(len(weight), 1)\n"
    )
    deadly = Instance([[500, 1, 1, 1]], Topology(6, 3))
    with PolicyRunner(LIMITS) as runner:
        first, second = (runner.run(str(file), INSTANCE).placement for _ in range(2))
        assert (first.phy2log == second.phy2log).all()  # the same process
        with pytest.raises(PolicyError, match="exit code 1"):
            runner.run(str(file), deadly)
        assert runner.run(str(file), INSTANCE).placement.phy2log.shape == (2, 6)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("while True: pass", PolicyTimeoutError, "importing it did not end within 2 s"),
        ("import os; os._exit(0)", PolicyError, "exit code 0"),
        ("1 / 0", PolicyError, "ZeroDivisionError"),
        ("x = 1", PolicyError, "has no 'rebalance_experts'"),
    ],
)
def test_a_file_that_misbehaves_when_it_is_imported(tmp_path, text, error, message):
    file = tmp_path / "policy.py"
    file.write_text(text)
    with PolicyRunner(LIMITS) as runner, pytest.raises(error, match=message):
        runner.run(str(file), INSTANCE)


def processes_with(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if word.encode() in command and state != "Z":
                found.append(int(entry.name))
    return found


def gone(word: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not processes_with(word):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")
def test_children_of_a_policy_end_with_it():
    with PolicyRunner(LIMITS) as runner:
        runner.run(f"{FILE}:leaves_a_child", INSTANCE)
        assert processes_with("eplb-orphan")
    assert gone("eplb-orphan")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_nothing_is_left_when_the_command_is_ended(tmp_path, number, code):
    file = tmp_path / "endless.py"
    file.write_text(
        "import pathlib\n"
        "def rebalance_experts(*_):\n"
        "    pathlib.Path(__file__).with_name('called').touch()\n"
        "    while True: pass\n"
    )
    loads = tmp_path / "loads.csv"
    loads.write_text("5,3,2,1\n")
    command = [*PROGRAM, "gap", str(loads), "--physical", "6"]
    process = subprocess.Popen(
        [*command, "--gpus", "3", "--policy", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    while not (tmp_path / "called").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert processes_with(str(file))
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert gone(str(file))
    if number == signal.SIGINT:
        assert b"interrupted" in output
