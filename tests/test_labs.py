"""Labs: they load, they ask, and what they explain is still so."""

import re
from io import StringIO

import pytest
from rich.console import Console

from emulator.config import load_box
from emulator.labs import Lab, LabError, LabRun, ask, explain, filled, list_labs, load_lab

LABS = list_labs()


def printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def quiet_console() -> Console:
    return Console(file=StringIO(), width=100)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_lab_names_boxes_runs_and_figures_that_there_are(lab: Lab) -> None:
    names = {run.name for run in lab.runs}
    for run in lab.runs:
        assert load_box(run.box, run.changes, duration=run.duration).resolve()
    places = re.findall(r"\{([^.{}]+)\.([^{}]+)\}", lab.explain)
    assert {name for name, _path in places} <= names
    assert {one["run"] for one in lab.expect} <= names
    assert lab.ask
    assert lab.expect, "a lab that checks nothing may tell what is no longer true"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_lab_asks_before_it_tells(lab: Lab) -> None:
    console = quiet_console()
    ask(lab, console)
    text = printed(console)
    assert text.count("?") >= len(lab.figures) * len(lab.runs)
    assert lab.title in text
    assert "--explain" in text
    assert " ".join(lab.explain.split())[:60] not in " ".join(text.split())


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_what_a_lab_explains_is_so(lab: Lab) -> None:
    console = quiet_console()
    assert explain(lab, console) == 0, printed(console)
    text = printed(console)
    assert "not as this lab says" not in text
    assert not re.search(r"\{[^}]*\}", text)


def test_a_lab_that_tells_what_is_not_so_fails() -> None:
    run = LabRun("one", "hotplug-and-load", (), "2s")
    wrong = {"run": "one", "figure": "iops", "max": 1}
    lab = Lab("x", "A title", "text", (run,), {"iops": "IOPS"}, ("?",), "{one.iops}", (wrong,))
    console = quiet_console()
    assert explain(lab, console) == 1
    assert "not as this lab says: one: iops is" in printed(console)


def test_a_run_that_fails_is_told_and_judged_unknown() -> None:
    run = LabRun("one", "no-such-box", (), "1s")
    lab = Lab("x", "A title", "text", (run,), {"iops": "IOPS"}, ("?",), "text", ())
    console = quiet_console()
    assert explain(lab, console) == 2
    assert "there is no such box" in printed(console)


def test_figures_in_a_text() -> None:
    found = {"a": {"iops": 12345.6, "clat_us": {"p50": 3.456}, "none": None}}
    text = filled("{a.iops} and {a.clat_us.p50} and {a.none}", found)
    assert text == "12,346 and 3.46 and -"


def test_no_such_lab() -> None:
    with pytest.raises(LabError, match="there is no lab 'ping-pog'; did you mean ping-pong"):
        load_lab("ping-pog")
