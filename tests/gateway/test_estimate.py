"""Prompts are guessed by what the same client's had, and nobody can teach nonsense."""

from fairlane.gateway.estimate import Estimates


def test_a_ratio_is_learned_for_each_client_and_model() -> None:
    estimates = Estimates()
    assert estimates.tokens("a", "m", 400) == 100
    for _ in range(30):
        estimates.learn("a", "m", 300, 200)
    assert estimates.tokens("a", "m", 300) == 200
    assert estimates.tokens("b", "m", 400) == estimates.tokens("a", "other", 400) == 100


def test_nonsense_teaches_little() -> None:
    estimates = Estimates()
    estimates.learn("a", "m", 10**9, 1)
    assert estimates.tokens("a", "m", 6400) == 100
    estimates.learn("b", "m", 1, 10**9)
    assert estimates.tokens("b", "m", 100) == 400
    for characters, tokens in ((0, 5), (5, 0), (0, 0), (5, -1)):
        estimates.learn("c", "m", characters, tokens)
    assert estimates.tokens("c", "m", 400) == 100


def test_the_longest_silent_are_forgotten() -> None:
    estimates = Estimates(kept=2)
    for client in ("a", "b", "a", "c"):
        estimates.learn(client, "m", 100, 100)
    assert [estimates.tokens(client, "m", 100) for client in "abc"] == [100, 25, 100]
