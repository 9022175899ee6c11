"""Questions to a llama model: their text, tokens and limits."""

from __future__ import annotations

import pytest

from edge_agent.engine.protocol import AskedQuestion
from edge_agent.engine.runtimes.llama import question_prompts
from edge_agent.engine.runtimes.llama.question_prompts import (
    BundleQuestions,
    PromptParts,
    QuestionTemplate,
    QuestionTokenizer,
    question_template,
    question_text,
)
from edge_agent.errors import InvalidRequest, ModelLoadFailed

NO_YES = ("no", "yes")
TEMPLATE = QuestionTemplate("\n\nQuestion:", " ", "\nAnswer:")
URGENT = AskedQuestion("urgent", "predicate", "Is it urgent?", NO_YES)
INTENT = AskedQuestion("intent", "choice", "What is wanted?", ("refund", "price"))
ANGER = AskedQuestion("anger", "score", "How angry?", ("calm", "angry"), ("no sign of it", ""))


def characters(text: str, special: bool) -> list[int]:
    """Return a token for each character; upper-case letters become control tokens."""
    return [ord(each) + 1000 * (special and each.isupper()) for each in text]


def tokenizer(tokens_max: int = 200) -> QuestionTokenizer:
    return QuestionTokenizer(TEMPLATE, " ", characters, tokens_max)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (URGENT, "Is it urgent?\nAnswer no or yes."),
        (INTENT, "What is wanted?\nOptions: refund; price"),
        (ANGER, "How angry?\nLevels, lowest first:\n- calm: no sign of it\n- angry"),
        (AskedQuestion("a", "score", "How?", ("low", "high")), "How?\nLevels, lowest first: low; high"),
        (AskedQuestion("a", "predicate", "Is it?", NO_YES, ("not", "so")), "Is it?\nAnswers:\n- no: not\n- yes: so"),
    ],
)
def test_question_text_is_exact(question: AskedQuestion, text: str) -> None:
    """The text of a question is fixed to the last character, because calibrated scores depend on it."""
    assert text == question_text(question)


def test_a_question_is_tokenized_in_parts() -> None:
    """The question is tokenized with the leading space and without control tokens, and the template's own part with
    them."""
    (asked,) = tokenizer().read([URGENT])
    assert [*characters(" " + question_text(URGENT), False), *characters("\nAnswer:", True)] == list(asked.tokens)
    assert (2, len(" yes") - 1) == (asked.tree.size, asked.depth)
    assert len(asked.tokens) + asked.tree.rows(0) == asked.rows


def test_template_has_its_question_once_after_the_input() -> None:
    """The text between input and question is left out of the question's template; a template with no question, with
    two, or with one before the input fails the load."""
    parts = PromptParts("Text: ", "", "\n\nQuestion: {question}\nAnswer:")
    assert TEMPLATE == question_template(parts, "till")
    for before, after in (("Text: ", "\nAnswer:"), ("{question} ", "\nAnswer: {question}"), ("", "{question}" * 2)):
        with pytest.raises(ModelLoadFailed, match=r"must hold .question. once, behind .input."):
            question_template(PromptParts(before, "", after), "till")


def test_too_long_question_is_refused_with_its_token_count() -> None:
    """The limit covers the question with its longest option; the error has the name, the count and the limit."""
    (asked,) = tokenizer().read([INTENT])
    needed = len(asked.tokens) + asked.depth
    assert needed == len(tokenizer(needed).read([INTENT])[0].tokens) + asked.depth
    with pytest.raises(InvalidRequest, match=f"'intent' has {needed} tokens .* the limit is {needed - 1}"):
        tokenizer(needed - 1).read([INTENT])


def test_question_with_far_too_many_characters_is_refused_early() -> None:
    """A question with more than 64 characters for each allowed token is refused by its length, without being
    tokenized."""
    long = AskedQuestion("long", "predicate", "x" * 700, NO_YES)
    with pytest.raises(InvalidRequest, match="'long' has 718 characters, more than 64 for each of 10 tokens"):
        tokenizer(10).read([long])


def test_too_many_questions_are_refused() -> None:
    """The error for a call with more than 400 questions has the count and the limit."""
    with pytest.raises(InvalidRequest, match="the call has 401 questions; 1 to 400 are allowed"):
        tokenizer().read([URGENT] * 401)


def test_too_many_outputs_are_refused() -> None:
    """Options and levels are counted over all questions of a call, and more than 8192 are refused."""
    many = AskedQuestion("many", "choice", "Which?", tuple(str(number) for number in range(100)))
    with pytest.raises(InvalidRequest, match="have 8200 options and levels in all; the limit is 8192"):
        tokenizer().read([many] * 82)


def test_too_many_tokens_in_all_are_refused() -> None:
    """The tokens of all questions of a call are limited together; questions after the limit is exceeded are not
    tokenized."""
    long = [AskedQuestion(f"long {number:3}", "predicate", "x" * 160, NO_YES) for number in range(400)]
    (one,) = tokenizer().read(long[:1])
    count, tokenized = question_prompts.TOKENS_MAX // one.rows + 1, list[str]()

    def noted(text: str, special: bool) -> list[int]:
        tokenized.append(text)
        return characters(text, special)

    read = QuestionTokenizer(TEMPLATE, " ", noted, 200)
    with pytest.raises(
        InvalidRequest, match=f"first {count} of 400 questions have {count * one.rows} tokens; the limit is 32768"
    ):
        read.read(long)
    assert count == sum("xxx" in text for text in tokenized)


def test_options_with_the_same_tokens_are_refused() -> None:
    """A question with two options that are the same tokens is the caller's error, which has the question's name."""
    same = QuestionTokenizer(TEMPLATE, " ", lambda text, _special: [len(text)], 200)
    with pytest.raises(InvalidRequest, match="question 'intent': labels 'aa' and 'bb' are the same tokens"):
        same.read([AskedQuestion("intent", "choice", "What?", ("aa", "bb"))])


def test_recent_questions_are_cached() -> None:
    """A repeated question returns the same object until CACHED_MAX other questions have replaced it."""
    read = tokenizer()
    (first,) = read.read([URGENT])
    others = [
        AskedQuestion(str(number), "predicate", "Is it?", NO_YES) for number in range(question_prompts.CACHED_MAX)
    ]
    for start in range(0, len(others) - 1, 400):
        read.read(others[start : start + 400][: len(others) - 1 - start])
    assert first is read.read([URGENT])[0]
    read.read(others[-1:])
    assert first is read.read([URGENT])[0]
    for start in range(0, len(others), 400):
        read.read(others[start : start + 400])
    assert first is not read.read([URGENT])[0]


def test_question_cache_is_bounded_by_rows() -> None:
    """Long questions are evicted by their total rows, so a caller with new long questions in each call cannot grow the
    engine's memory."""
    read = tokenizer(4_000)
    (first,) = read.read([URGENT])
    rows = number = 0
    while rows <= question_prompts.CACHED_ROWS_MAX:
        (asked,) = read.read([AskedQuestion(f"q{number}", "predicate", f"{number} {'x' * 3_000}?", NO_YES)])
        rows, number = rows + asked.rows, number + 1
    assert number < question_prompts.CACHED_MAX
    assert first is not read.read([URGENT])[0]
    assert asked is read.read([AskedQuestion(f"q{number - 1}", "predicate", f"{number - 1} {'x' * 3_000}?", NO_YES)])[0]


def test_call_without_questions_uses_those_of_the_bundle() -> None:
    """A call without questions is answered for the bundle's questions, each with its temperature; a bundle without
    questions refuses such a call."""
    warm = AskedQuestion("warm", "predicate", "Is it warm?", NO_YES, temperature=2.0)
    bundle = BundleQuestions(tokenizer(), [URGENT, warm])
    assert [("urgent", 1.0), ("warm", 2.0)] == [
        (each.question.name, each.temperature) for each in bundle.decision_questions(())
    ]
    assert ["intent"] == [each.question.name for each in bundle.decision_questions([INTENT])]
    with pytest.raises(InvalidRequest, match="the call has 0 questions"):
        BundleQuestions(tokenizer(), []).decision_questions(())
