from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from telellm.report.plots import interval_plot, loss_plot, running_mean

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(st.floats(0, 20), min_size=0, max_size=120))
def test_any_log_gives_a_drawing(losses: list[float]) -> None:
    drawing = ElementTree.fromstring(loss_plot([{"step": n + 1, "loss": loss} for n, loss in enumerate(losses)]))
    circles = drawing.findall("circle[@class='point']")
    assert len(circles) == (len(losses) if len(losses) <= 100 else 0)


@given(NUMBERS, st.floats(0, 1e6), st.floats(0, 1e6))
def test_any_interval_lies_within_the_drawing(value: float, below: float, above: float) -> None:
    entry = {"metric": "semscore.mean", "baseline": "base", "candidate": "instruct", "verdict": "It is better."}
    entry |= {"difference": value, "low": value - below, "high": value + above, "better": None}
    drawing = ElementTree.fromstring(interval_plot([entry])["semscore.mean"])
    ends = drawing.find("g/line")
    zero = drawing.find("line[@class='zero']")
    assert ends is not None and zero is not None
    places = [float(ends.attrib["x1"]), float(ends.attrib["x2"]), float(zero.attrib["x1"])]
    assert all(160 <= place <= 430 for place in places) and places[0] <= places[1]


def test_the_running_mean_looks_back() -> None:
    assert running_mean([4.0, 2.0, 0.0], 2) == [4.0, 3.0, 1.0]
