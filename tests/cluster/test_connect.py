"""While Ray connects it takes signals away, and it never says that it has died: both are made good."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

PATIENCE_S = 60.0
CONNECT = """
import signal, sys, time
from pathlib import Path
from distjet.cluster.connect import Liveness, cluster
from distjet.cluster.signals import stop_on_signal
from distjet.training.settings import ResourcesConfig

with stop_on_signal(Path(sys.argv[1])) as received:
    ours = signal.getsignal(signal.SIGTERM)
    with cluster(ResourcesConfig(num_workers=1)) as is_own:
        print("connected", is_own, signal.getsignal(signal.SIGTERM) is ours, flush=True)
        liveness = Liveness(is_own=is_own)
        while True:
            liveness.check()
            time.sleep(0.1)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that connects to a cluster of its own, and then asks all the time whether it is there."""
    command = [sys.executable, "-c", CONNECT, str(tmp_path / "stop")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for left in (process, *children):
            left.kill()
        process.wait(PATIENCE_S)


def find_raylet(driver: subprocess.Popen[str]) -> psutil.Process:
    """Wait for the process of Ray's node."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for child in psutil.Process(driver.pid).children(recursive=True):
            if child.name() == "raylet":
                return child
        time.sleep(0.01)
    raise AssertionError("no raylet was started")


@pytest.mark.integration
def test_a_signal_that_comes_while_ray_connects_is_told_as_what_it_is(driver: subprocess.Popen[str]) -> None:
    find_raylet(driver)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=PATIENCE_S)
    assert out == "", "the signal was to come before"
    assert "distjet.cluster.signals.Stopped: stopped by SIGTERM" in err


@pytest.mark.integration
def test_a_cluster_of_our_own_that_has_died_is_noticed(driver: subprocess.Popen[str]) -> None:
    assert driver.stdout is not None
    assert driver.stdout.readline() == "connected True True\n"
    find_raylet(driver).kill()
    _, err = driver.communicate(timeout=PATIENCE_S)
    assert "UserError: Ray has died on this machine" in err
