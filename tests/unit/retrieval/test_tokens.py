import pytest
from hypothesis import given
from hypothesis import strategies as st

from telellm.retrieval.tokens import LONGEST, tokenize


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("see TS 38.331, clause 5.3.5", {"ts", "38.331", "clause", "5.3.5"}),
        ("the 5QI of a flow", {"5qi", "flow"}),
        ("S-NSSAI", {"s-nssai", "snssai", "nssai"}),
        ("RRC_CONNECTED", {"rrc_connected", "rrc", "connected"}),
        ("servingCellConfigCommon", {"servingcellconfigcommon", "serving", "cell", "config", "common"}),
        (r"$P_{\mathrm{max}} = \alpha N_{RB}^{DL}$", {"p_max", "max", "alpha", "n_rb^dl", "rb", "dl"}),
        ("the UE's slots", {"ue", "slot"}),
        ("F1/E1", {"f1/e1", "f1", "e1"}),
    ],
)
def test_names_and_numbers_of_telecom_stay_whole_beside_their_parts(text: str, wanted: set[str]) -> None:
    assert wanted <= set(tokenize(text))


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("What is the SNSSAI?", "An S-NSSAI identifies a slice."),
        ("RRC reconfiguration", "The UE applies RRCReconfiguration."),
        ("What does P_max bound?", r"Power is bounded by $P_{\text{max}}$."),
        ("classes of policies", "a policy of a class"),
    ],
)
def test_another_spelling_shares_a_token(question: str, text: str) -> None:
    assert set(tokenize(question)) & set(tokenize(text))


def test_a_decimal_number_is_not_taken_apart() -> None:
    assert list(tokenize("3.5 GHz")) == ["3.5", "ghz"]


@given(st.text())
def test_tokens_of_any_text_have_no_space_and_an_end(text: str) -> None:
    for token in tokenize(text):
        assert token and len(token) <= LONGEST
        assert token.split() == [token]
