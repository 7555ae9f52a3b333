"""Names of jobs are DNS labels, and nobody else's."""

import re

from hypothesis import given
from hypothesis import strategies as st

from telellm.cluster.names import job_name, label

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
text = st.text(min_size=1, max_size=300)


@given(text, text, text)
def test_a_name_is_a_dns_label_that_leaves_room_for_the_names_of_pods(run, step, key):
    name = job_name(f"s3://bucket/runs/{run}", step, key)
    assert LABEL.fullmatch(name), name
    assert len(f"{name}-worker-1023") <= 63


@given(text)
def test_a_label_is_one(value):
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", label(value))
    assert len(label(value)) <= 63


def test_the_same_work_has_the_same_name_and_other_work_another():
    name = job_name("s3://bucket/runs/nightly", "pretrain", "k1")
    assert name.startswith("nightly-pretrain-")
    assert job_name("s3://bucket/runs/nightly", "pretrain", "k1") == name
    others = {
        job_name("s3://other/runs/nightly", "pretrain", "k1"),
        job_name("s3://bucket/runs/nightly", "instruct", "k1"),
        job_name("s3://bucket/runs/nightly", "pretrain", "k2"),
        job_name("s3://bucket/runs/" + "n" * 80 + "1", "pretrain", "k1"),
        job_name("s3://bucket/runs/" + "n" * 80 + "2", "pretrain", "k1"),
    }
    assert len(others | {name}) == 6
