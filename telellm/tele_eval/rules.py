"""Rules that a question and its answer must keep: they stand alone, ask one thing, and are not given away."""

import re
from itertools import pairwise

REFERENCE = (
    r"\b(?:fig(?:ure|s|ures)?|tab(?:le|les)?|eq(?:uation|s|uations)?|sec(?:tion|tions)?|clauses?|sub-?clauses?|annex(?:es)?"
    r"|appendix|appendices|chapters?|theorem|lemma|algorithm|listing|step|example|ref(?:erence|s)?)\b\.?\s*~?[(\[]?(?:\d+(?:\.\d+)*|[A-Z]\b|[IVX]+\b|\\ref)"
    r"|\[\s*\d+(?:\s*[-,;–]\s*\d+)*\s*\]|\\(?:cite|ref|eqref)\b|\((?:\d{1,3}|[a-z])\)(?=[\s.,;]|$)"
    r"|\bet\sal\b|\bibid\b"
)
NAMED_REFERENCE = re.compile(REFERENCE, re.IGNORECASE)
"""What names a figure, a table, a formula, a clause or a reference of the text."""

LEANING = re.compile(
    r"\b(?:in|of|by|from|within|for|to|throughout|under|with|the)?\s*(?:this|these|that|the|our|their|said)\s"
    r"(?:(?:above|following|present|given|proposed|preceding|previous|next|current|last|second|first|same|accompanying)\s)*"
    r"(?:paper|papers|section|sections|subsection|clause|subclause|annex|chapter|article|passage|text|paragraph|excerpt|document"
    r"|documents|study|studies|thesis|author|authors|writer|figure|figures|table|tables|equation|equations|formula|appendix"
    r"|specification|memo|statement|sentence|fact|facts|context|work|survey|example|lecture|page|post|blog|report|abstract|note)\b"
    r"|\b(?:the|our)\s(?:proposed|presented|above|following|aforementioned|mentioned|considered|preceding|former|latter)\b"
    rf"|{REFERENCE}"
    r"|\b(?:as|is|are|was|were|been)\s(?:mentioned|described|discussed|shown|stated|noted|given|listed|explained|seen|defined|illustrated|depicted|summari[sz]ed|outlined|introduced)\s"
    r"(?:above|below|before|earlier|here|previously|in\sthe|in\s[A-Z\d(\[])"
    r"|\b(?:above|below)-?\s?(?:mentioned|described|named)\b|\b(?:mentioned|described|discussed|given|listed|shown)\s(?:above|below|earlier|previously|here)\b"
    r"|\b(?:according\sto|based\son|per)\s(?:the|this|that)\s(?:passage|text|above|information|fact|article|paper|document|author|given)\b"
    r"|\b(?:we|our|ours|us|i|my|me|mine|ourselves)\b(?![-/.]\w)"
    r"|\bherein\b|\bhereafter\b|\bthe\spresent\s\w+\b|\bthe\sreader\b",
    re.IGNORECASE,
)
"""Words by which a sentence leans on the text that it came from. `I` and `US` as parts of names are spared below."""

POINTING = re.compile(
    r"^(?:(?:and|but|so|or|yet|also|thus|then|hence|here|there|therefore|however|otherwise|instead|again|moreover|furthermore"
    r"|nevertheless|similarly|likewise|finally|consequently|conversely|meanwhile|next|first|second|third|both|neither|either|another"
    r"|others?|each|one|all|some|most|many|few|none|such|this|these|that|those|it|its|they|their|them|he|she|his|her|you|your"
    r"|for\sexample|for\sinstance|in\scontrast|in\saddition|as\sa\sresult|on\sthe\sother\shand|by\scontrast|at\sthat|in\sthis|in\sthat"
    r"|in\sthese|in\sboth|in\ssuch|with\sthis|with\sthese|with\sit|under\sthis|under\sthese|from\sthis|for\sthis|after\sthis|after\sthat"
    r"|until\sthen|to\sthis|at\sthis|because\sof\sthis|if\sit|if\sthey|when\sit|when\sthey|since\sit|once\sit|while\sit|the\ssame|the\sother"
    r"|the\sothers|the\ssecond|the\sfirst|the\sthird|the\slast|the\sformer|the\slatter|the\srest|the\sresult|the\srule|the\sprice|the\sremedy|the\sreason"
    r"|the\scause|the\scure|the\sidea|the\sanswer|the\seffect|the\sdifference|the\sadvantage|the\sdrawback|the\sproblem|the\smethod|the\sscheme"
    r"|the\sexample|the\scalculation|the\sresulting|two\sof|one\sof\sthem)\b|(?:with|let|at|for|given)\s[A-Za-z\\$]{1,12}\s?=)",
    re.IGNORECASE,
)
"""How a sentence begins that goes on from the one before it."""

POINTING_WITHIN = re.compile(r"\b(?:this|these|those|such\san?|here|it|they|them|he|she|you|your)\b", re.IGNORECASE)
ENDS_POINTING = re.compile(
    r"\b(?:of|by|for|with|to|in|from)\s(?:this|these|those|that)[.?]?$|\b(?:these|those)\s(?:\d+|two|three|four|five)\b",
    re.IGNORECASE,
)
"""What ends so, or counts what it points at, leans on the sentence before."""
QUESTION_WORD = re.compile(
    r"^(?:what|which|why|how|when|where|who|whose|whom|in|at|by|for|from|to|of|on|with|under|between|after|before|if|during"
    r"|is|are|was|were|does|do|did|can|could|should|must|may|will|would|has|have)\b",
    re.IGNORECASE,
)
YES_OR_NO = re.compile(
    r"^(?:is|are|was|were|does|do|did|can|could|should|must|may|will|would|has|have)\b", re.IGNORECASE
)
SECOND_QUESTION = re.compile(r"[,;]?\s(?:and|or)\s(?:what|which|why|when|where|who|how)\b", re.IGNORECASE)
WORD = re.compile(r"[^\W_]+(?:[-./'’][^\W_]+)*|[^\W_]", re.UNICODE)
STOP_WORDS = frozenset(
    re.findall(
        r"[a-z]+",
        """
        a about above after again all also although always among an and another any are as at be because been before
        being between both but by called can could did do does doing done down during each either enough even every
        few first for from further get gets given gives had has have having he her here his how however i if in
        instead into is it its itself just kept know less like made make makes many may means might more most much
        must my neither next no nor not of off often on once one only or other others our out over own per quite
        rather same second several shall she should since so some such take takes than that the their them then there
        therefore these they thing things third this those through thus to too two under until up upon use used uses
        using very was we well were what when where whether which while who whom whose why will with within without
        would yet you your
        """,
    )
)
VAGUE = frozenset(
    re.findall(
        r"[a-z]+",
        """
        advantage advantages aim answer author benefit benefits case concept context correct describe described
        difference different effect example explain fact following function goal idea implication implications
        important importance information kind main mean meaning method name number objective point primary problem
        process purpose question reason refer result role significance solution state statement step system term text
        topic true type value way work exam key given sentence passage
        """,
    )
)
"""Words of questions that could be asked about any text."""
AMOUNT_ASKED = re.compile(r"^How\s(?:many|much|long|large|far|often|fast|high|wide|old|great|small)\b", re.IGNORECASE)
NUMBER_WORDS = frozenset(
    {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "hundred", "thousand"}
)
REASONS = (
    "no question",
    "several questions in one",
    "yes or no would answer it",
    "names a figure or reference",
    "leans on its source",
    "question is vague",
    "answer too short",
    "answer too long",
    "broken formula",
    "question repeats itself",
    "question gives its answer away",
)


def leans(text: str) -> bool:
    """Say whether a sentence can be understood only beside its text ("in this paper", "Figure 3", "we", "it")."""
    spared = _spared(text)
    if LEANING.search(spared) or POINTING.search(spared):
        return True
    pointer = POINTING_WITHIN.search(spared)
    if pointer is not None and ENDS_POINTING.search(spared):
        return True
    # "it" may point to a noun of the same sentence, when enough of one stands before it
    return pointer is not None and len(content_words(spared[: pointer.start()])) < 3


def objection(statement: str, answer: str, lengths: tuple[int, int]) -> str:
    """Return the first rule that a question or its answer breaks, one of `REASONS`; "" when they keep all."""
    asked, told = content_words(statement), content_words(answer)
    num_words = len(answer.split())
    if not statement.endswith("?") or not QUESTION_WORD.match(statement) or len(statement.split()) < 3:
        return "no question"
    if statement.count("?") > 1 or SECOND_QUESTION.search(statement):
        return "several questions in one"
    if YES_OR_NO.match(statement):
        return "yes or no would answer it"
    if NAMED_REFERENCE.search(_spared(statement)) or NAMED_REFERENCE.search(_spared(answer)):
        return "names a figure or reference"
    if leans_question(statement) or LEANING.search(_spared(answer)):
        return "leans on its source"
    if is_vague(statement):
        return "question is vague"
    if num_words < lengths[0]:
        return "answer too short"
    if num_words > lengths[1]:
        return "answer too long"
    if any(
        text.replace(r"\$", "").count("$") % 2 or text.count("{") != text.count("}") for text in (statement, answer)
    ):
        return "broken formula"
    if repeats_itself(statement):
        return "question repeats itself"
    if not told - asked or len(told - asked) < 0.2 * len(told):
        return "question gives its answer away"
    if AMOUNT_ASKED.match(statement) and not _amounts(told - asked):
        return "question gives its answer away"
    return ""


def leans_question(statement: str) -> bool:
    """Say whether a question points at something that it does not name."""
    if LEANING.search(statement) or re.search(r"\b(?:it|them|they|this|that|these|those)\?$", statement):
        return True
    pointer = POINTING_WITHIN.search(statement.replace("does it take", "does take"))
    return pointer is not None and len(content_words(statement[: pointer.start()]) - VAGUE) < 2


def is_vague(statement: str) -> bool:
    """Say whether a question could be asked about any text: it names neither two things nor one by a term."""
    named = content_words(statement) - VAGUE
    if AMOUNT_ASKED.match(statement) and len(statement.split()) < 6:
        return True
    return len(named) < 2 and not any(len(word) >= 9 or word.upper() in statement for word in named if len(word) > 1)


def strays(statement: str, text: str, share: float) -> bool:
    """Say whether that share of a question's words, or any word with a digit in it, is foreign to a text."""
    named, told = content_words(statement) - VAGUE, content_words(text)
    foreign = named - told
    return (bool(named) and len(foreign) >= share * len(named)) or any(re.search(r"\d", word) for word in foreign)


def _amounts(words: set[str]) -> list[str]:
    return [word for word in words if word[0].isdigit() or word in NUMBER_WORDS]


def repeats_itself(statement: str) -> bool:
    """Say whether two words stand side by side twice, or a question asks what something is doing."""
    words = [word for word in (match[0].casefold() for match in WORD.finditer(statement)) if word not in STOP_WORDS]
    pairs = list(pairwise(words))
    return (
        "doing" in statement.split() or len(set(pairs)) < len(pairs) or any(first == second for first, second in pairs)
    )


def content_words(text: str) -> set[str]:
    """Return a text's words that carry meaning, in lower case and without plural endings."""
    words = (match[0].casefold() for match in WORD.finditer(text))
    return {stem(word) for word in words if word not in STOP_WORDS and (len(word) > 1 or word.isdigit())}


def overlap(answer: str, passage: str) -> float:
    """Return the share of the answer's content words that the passage contains."""
    told = content_words(answer)
    return len(told & content_words(passage)) / len(told) if told else 0.0


def _spared(text: str) -> str:
    """Return a text without names that look like words of a text ("class I", "US", "I/Q")."""
    return re.sub(r"\b(?:type|class|part|phase|layer|category)\s[IVX]+\b|\bU\.?S\.?\b|\bI/Q\b|\bI/O\b", " ", text)


def stem(word: str) -> str:
    """Return a word without its plural ending."""
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
