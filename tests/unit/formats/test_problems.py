from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lianlu.formats.problems import arithmetic_problem, for_training


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
def test_the_answer_is_the_value_and_the_side_is_the_one_asked_for(seed: int, index: int, training: bool) -> None:
    problem = arithmetic_problem(seed, index, training)
    assert eval(problem.expression) == problem.answer >= 0
    assert for_training(problem.expression) is training
    assert problem == arithmetic_problem(seed, index, training)


def test_training_and_evaluation_share_no_expression_for_any_seed() -> None:
    train = {arithmetic_problem(seed, index, True).expression for seed in range(3) for index in range(300)}
    held = {arithmetic_problem(seed, index, False).expression for seed in range(3) for index in range(300)}
    assert not train & held
    assert len(train) > 850
    assert len(held) > 850


def test_the_order_of_terms_does_not_move_an_expression_to_the_other_side() -> None:
    for a in range(10, 60):
        assert for_training(f"{a} * 17 + 5") == for_training(f"5+17*{a}")
    assert {for_training(f"{a} + 1") for a in range(20)} == {True, False}


def test_questions_hold_every_number_of_their_expression() -> None:
    for index in range(200):
        problem = arithmetic_problem(1, index, True)
        numbers = problem.expression.replace("(", "").replace(")", "").split()[::2]
        assert all(number in problem.question for number in numbers)
