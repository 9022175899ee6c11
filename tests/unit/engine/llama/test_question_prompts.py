"""edge_agent/engine/runtimes/llama/question_prompts.py"""

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
    """Return a token for each character; control tokens are those of upper-case letters."""
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
def test_a_question_has_one_text(question: AskedQuestion, text: str) -> None:
    """Calibrated scores depend on the text of a question, so it is this one to the last character."""
    assert text == question_text(question)


def test_a_question_is_tokenized_in_parts() -> None:
    """The question is read with the spaces before it and without control tokens; the template's own part with them."""
    (asked,) = tokenizer().read([URGENT])
    assert [*characters(" " + question_text(URGENT), False), *characters("\nAnswer:", True)] == list(asked.tokens)
    assert (2, len(" yes") - 1) == (asked.tree.size, asked.depth)
    assert len(asked.tokens) + asked.tree.rows(0) == asked.rows


def test_a_template_has_its_question_once_behind_the_input() -> None:
    """What stands between input and question is the input's; without the question, or with two, the bundle fails."""
    parts = PromptParts("Text: ", "", "\n\nQuestion: {question}\nAnswer:")
    assert TEMPLATE == question_template(parts, "till")
    for before, after in (("Text: ", "\nAnswer:"), ("{question} ", "\nAnswer: {question}"), ("", "{question}" * 2)):
        with pytest.raises(ModelLoadFailed, match=r"must hold .question. once, behind .input."):
            question_template(PromptParts(before, "", after), "till")


def test_a_question_that_is_too_long_is_refused_with_its_tokens() -> None:
    """The limit is of the question with its longest option; the error has the name, the count and the limit."""
    (asked,) = tokenizer().read([INTENT])
    needed = len(asked.tokens) + asked.depth
    assert needed == len(tokenizer(needed).read([INTENT])[0].tokens) + asked.depth
    with pytest.raises(InvalidRequest, match=f"'intent' has {needed} tokens .* the limit is {needed - 1}"):
        tokenizer(needed - 1).read([INTENT])


def test_a_question_with_far_too_many_characters_is_not_tokenized() -> None:
    """A text that cannot fit is refused by its characters."""
    long = AskedQuestion("long", "predicate", "x" * 700, NO_YES)
    with pytest.raises(InvalidRequest, match="'long' has 718 characters, more than 64 for each of 10 tokens"):
        tokenizer(10).read([long])


def test_too_many_questions_are_refused() -> None:
    """The error has the count and the limit."""
    with pytest.raises(InvalidRequest, match="the call has 401 questions; 1 to 400 are allowed"):
        tokenizer().read([URGENT] * 401)


def test_too_many_outputs_are_refused() -> None:
    """Options and levels are counted over all questions of a call."""
    many = AskedQuestion("many", "choice", "Which?", tuple(str(number) for number in range(100)))
    with pytest.raises(InvalidRequest, match="have 8200 options and levels in all; the limit is 8192"):
        tokenizer().read([many] * 82)


def test_too_many_tokens_in_all_are_refused() -> None:
    """No question is too long by itself, but all of them are; those behind the limit are not tokenized."""
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


def test_options_that_are_the_same_tokens_are_refused() -> None:
    """A question whose options the model cannot tell apart is the caller's error, with the question's name."""
    same = QuestionTokenizer(TEMPLATE, " ", lambda text, _special: [len(text)], 200)
    with pytest.raises(InvalidRequest, match="question 'intent': labels 'aa' and 'bb' are the same tokens"):
        same.read([AskedQuestion("intent", "choice", "What?", ("aa", "bb"))])


def test_the_questions_asked_last_are_kept() -> None:
    """The same question is the same object again, until so many others have come that it is dropped."""
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


def test_what_is_kept_of_large_questions_is_bounded_too() -> None:
    """A caller that brings other long questions with each call makes the engine no larger than a few such calls do."""
    read = tokenizer(4_000)
    (first,) = read.read([URGENT])
    rows = number = 0
    while rows <= question_prompts.CACHED_ROWS_MAX:
        (asked,) = read.read([AskedQuestion(f"q{number}", "predicate", f"{number} {'x' * 3_000}?", NO_YES)])
        rows, number = rows + asked.rows, number + 1
    assert number < question_prompts.CACHED_MAX
    assert first is not read.read([URGENT])[0]
    assert asked is read.read([AskedQuestion(f"q{number - 1}", "predicate", f"{number - 1} {'x' * 3_000}?", NO_YES)])[0]


def test_without_questions_a_call_asks_those_of_the_bundle() -> None:
    """Each question brings its temperature; a bundle without any has nothing to ask."""
    warm = AskedQuestion("warm", "predicate", "Is it warm?", NO_YES, temperature=2.0)
    bundle = BundleQuestions(tokenizer(), [URGENT, warm])
    assert [("urgent", 1.0), ("warm", 2.0)] == [
        (each.question.name, each.temperature) for each in bundle.decision_questions(())
    ]
    assert ["intent"] == [each.question.name for each in bundle.decision_questions([INTENT])]
    with pytest.raises(InvalidRequest, match="the call has 0 questions"):
        BundleQuestions(tokenizer(), []).decision_questions(())
