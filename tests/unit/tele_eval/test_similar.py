import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.tele_eval.similar import Questions, names, same_by_meaning, same_by_words

VOCABULARY = ["timer", "cell", "gain", "loss", "T310", "T300", "AMF", "slot", "prefix", "beam", "rank", "code"]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=6)


def asked(*statements: str) -> Questions:
    questions = Questions()
    for statement in statements:
        questions.add(statement)
    return questions


def by_words(*statements: str, similarity: float = 0.85) -> dict[int, int]:
    return same_by_words(asked(*statements), range(len(statements)), similarity)


def test_the_same_question_in_other_words_of_no_weight_is_found() -> None:
    assert by_words("How long is the cyclic prefix in LTE?", "In LTE, how long is a cyclic prefix?") == {1: 0}
    assert by_words("How long is the cyclic prefix in LTE?", "How long is the useful symbol in LTE?") == {}


def test_questions_about_two_things_of_a_kind_are_two() -> None:
    long = "How long does the {} run before the UE gives up its connection to the serving cell of the network?"
    assert by_words(long.format("timer T310"), long.format("timer T311"), similarity=0.5) == {}
    assert by_words(long.format("timer T310"), long.format("timer T310"), similarity=0.5) == {1: 0}


def test_names_are_what_has_a_digit_or_two_capitals() -> None:
    assert names("What does the AMF send in 5G to a UE, and when does T310 run?") == {"amf", "5g", "ue", "t310"}
    assert names("What is a Slice?") == set()


def test_the_earlier_in_the_order_is_kept() -> None:
    questions = asked("What is a beam?", "What is the beam?", "What is a code?")
    assert same_by_words(questions, [1, 2, 0], 0.9) == {0: 1}


@given(st.lists(WORDS, max_size=14), st.floats(0.3, 1))
def test_looking_up_rare_words_alone_misses_nothing(lists: list[list[str]], similarity: float) -> None:
    questions = asked(*(" ".join(words) for words in lists))
    found = same_by_words(questions, range(len(lists)), similarity)
    frequency = {word: sum(word in words for words in lists) for words in lists for word in words}

    def vector(words: list[str]) -> dict[str, float]:
        weights = {word: float(numpy.log1p(len(lists) / frequency[word])) for word in sorted(set(words))}
        length = sum(weight**2 for weight in weights.values()) ** 0.5
        return {word: weight / length for word, weight in weights.items()}

    kept: list[int] = []
    for number, words in enumerate(lists):
        one = vector(words)
        cosines = [sum(w * vector(lists[k]).get(word, 0) for word, w in one.items()) for k in kept]
        near = [cosine for k, cosine in zip(kept, cosines, strict=True) if not questions.differ(number, k)]
        if any(abs(cosine - similarity) < 1e-4 for cosine in near):
            return  # a tie is decided by rounding
        assert (number in found) == any(cosine >= similarity for cosine in near)
        if number not in found:
            kept.append(number)


@pytest.mark.parametrize("number", [3, 700])
def test_embeddings_find_the_same_as_all_pairs_do(number: int) -> None:
    chance = numpy.random.default_rng(17)
    centres = chance.normal(size=(number // 3, 24))
    vectors = centres[chance.integers(0, len(centres), number)] + 0.2 * chance.normal(size=(number, 24))
    vectors = (vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)).astype(numpy.float16)
    questions = asked(*["What is it?"] * number)
    order = list(chance.permutation(number))
    found = same_by_meaning(questions, vectors, order, 0.9)
    kept: list[int] = []
    exact = vectors.astype(numpy.float32)
    for question in order:
        if kept and float((exact[kept] @ exact[question]).max()) >= 0.9 - 1e-3:
            assert question in found
        else:
            assert question not in found
            kept.append(question)
    assert 0 < len(kept) <= number


def test_names_tell_questions_apart_whatever_their_embeddings() -> None:
    vectors = numpy.ones((3, 4), dtype=numpy.float16) / 2
    questions = asked("How long is T310?", "How long is T311?", "What is the length of T310?")
    assert same_by_meaning(questions, vectors, [0, 1, 2], 0.9) == {2: 0}
