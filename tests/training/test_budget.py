import time

import pytest

from dnadiff.training.budget import Budget, learning_rate


def test_progress_is_the_further_of_steps_and_time():
    budget = Budget(max_steps=100, max_seconds=50.0)
    assert budget.progress(20, elapsed=5.0) == 0.2
    assert budget.progress(20, elapsed=25.0) == 0.5
    assert budget.progress(20, elapsed=99.0) == 1.0
    assert Budget(100, None).progress(25, elapsed=1e9) == 0.25
    assert Budget(None, 10.0).progress(10**9, elapsed=5.0) == 0.5


def test_a_budget_needs_an_end():
    with pytest.raises(ValueError, match="steps or seconds"):
        Budget(None, None)


def test_time_counts_only_while_training_and_across_runs():
    budget = Budget(None, 10.0)
    budget.spent = 3.0
    budget.start()
    time.sleep(0.02)
    budget.pause()
    spent = budget.elapsed
    assert 3.02 <= spent < 4.0
    time.sleep(0.02)
    assert budget.elapsed == spent


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.505), (1.0, 0.01)]
)
def test_learning_rate(progress, rate):
    assert learning_rate(progress, peak=1.0, final=0.01, warmup=0.1) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.05, 0.5), (0.1, 1.0), (0.8, 1.0), (0.9, 0.505), (1.0, 0.01)]
)
def test_learning_rate_with_a_cooldown(progress, rate):
    found = learning_rate(progress, peak=1.0, final=0.01, warmup=0.1, cooldown=0.2)
    assert found == pytest.approx(rate)
