"""Signals become requests: of the driver through a file, of a worker through a flag; a second one does what it always did."""

import os
import signal
from pathlib import Path

import pytest

from distjet.cluster import signals
from distjet.cluster.signals import (
    AT_WORK_FILE,
    NOBODY_FOR_S,
    STOP_FILE,
    NobodyHears,
    ShouldStop,
    notice_signals,
    stop_on_signal,
    told_to_go,
)


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch):
    """Leave handlers and flags as they were."""
    monkeypatch.setattr(signals, "_told_to_go", [])
    before = {number: signal.getsignal(number) for number in signals.NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_a_worker_notes_the_first_signal_and_obeys_the_second(tmp_path: Path, number: signal.Signals) -> None:
    obeyed: list[int] = []
    signal.signal(number, lambda received, frame: obeyed.append(received))
    notice_signals()
    should_stop = ShouldStop(tmp_path / "stop")
    assert not should_stop()
    os.kill(os.getpid(), number)
    assert should_stop()
    assert told_to_go() == f"{number.name} (process {os.getpid()})"
    assert obeyed == []
    os.kill(os.getpid(), number)
    assert obeyed == [number]


def test_the_driver_asks_once_and_ends_at_the_second_signal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop_file = tmp_path / "stop"
    with stop_on_signal(stop_file) as received:
        assert not stop_file.exists()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop_file.exists()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGUSR1]
    assert not stop_file.exists()
    assert "SIGUSR1: writing a checkpoint" in capsys.readouterr().err


def test_the_file_is_looked_for_now_and_then(tmp_path: Path) -> None:
    now = [0.0]
    should_stop = ShouldStop(tmp_path / "stop", clock=lambda: now[0])
    assert not should_stop()
    (tmp_path / "stop").touch()
    assert not should_stop()
    now[0] += 10
    assert should_stop()
    (tmp_path / "stop").unlink()
    assert should_stop(), "a request is not taken back"


def test_a_request_is_heard_by_nobody_only_while_there_are_no_workers(tmp_path: Path) -> None:
    now = [0.0]
    nobody_hears = NobodyHears(tmp_path, clock=lambda: now[0])

    def after(seconds: float) -> bool:
        now[0] += seconds
        return nobody_hears()

    assert not after(10 * NOBODY_FOR_S), "nobody has asked"
    (tmp_path / STOP_FILE).touch()
    (tmp_path / AT_WORK_FILE).touch()
    assert not after(10 * NOBODY_FOR_S), "they may write a checkpoint, which takes its time"
    (tmp_path / AT_WORK_FILE).unlink()
    assert not after(0.5)
    (tmp_path / AT_WORK_FILE).touch()
    assert not after(NOBODY_FOR_S), "they have started meanwhile"
    (tmp_path / AT_WORK_FILE).unlink()
    assert not after(0.5)
    assert after(NOBODY_FOR_S)
