"""A bar on a terminal and lines in a log say the same: tasks, what they have counted, its rate, the time that remains."""

import logging

import pytest

from distjet import progress
from distjet.progress import Tally, bar, duration


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_rate_and_the_remaining_time_follow_from_what_is_done() -> None:
    clock = Clock()
    tally = Tally(40, clock)
    assert tally.line() == "0/40 tasks"
    for _ in range(12):
        clock.now += 2.0
        tally.add({"jets": 18_000, "quarantined": 1})
    assert tally.line() == "12/40 tasks, 216000 jets (9000/s), 12 quarantined, 0:00:56 left"
    for _ in range(28):
        clock.now += 2.0
        tally.add({"jets": 0, "quarantined": 0})
    assert tally.line() == "40/40 tasks, 216000 jets (2700/s), 12 quarantined, in 0:01:20"
    assert duration(7384.6) == "2:03:05"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "Tally", lambda total, unit: Tally(total, clock, unit))
    with caplog.at_level(logging.INFO, logger="distjet.progress"), bar("convert", 10) as advance:
        for _ in range(10):
            clock.now += 12.0
            advance({"jets": 100})
    assert [record.message for record in caplog.records] == [
        "convert: 3/10 tasks, 300 jets (8/s), 0:01:24 left",
        "convert: 6/10 tasks, 600 jets (8/s), 0:00:48 left",
        "convert: 9/10 tasks, 900 jets (8/s), 0:00:12 left",
        "convert: 10/10 tasks, 1000 jets (8/s), in 0:02:00",
    ]


def test_without_progress_only_the_end_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.0)
    with caplog.at_level(logging.INFO, logger="distjet.progress"), bar("convert", 3, enabled=False) as advance:
        for _ in range(3):
            advance({})
    assert [record.message for record in caplog.records] == ["convert: 3/3 tasks, in 0:00:00"]


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    with bar("convert entries to graphs", 2) as advance:
        advance({"jets": 20_000, "quarantined": 3})
        advance({"jets": 20_000, "quarantined": 0})
    drawn = capsys.readouterr().err
    assert "convert entries" in drawn
    assert "2/2 tasks, 40000 jets" in drawn
    assert "3 quarantined, in 0:00:00" in drawn
