"""The driver of seeded faults: the same seed chooses the same, and what is wrong is called so."""

import importlib.util
import sys

import pytest
from helpers import PROJECT
from load import Result

FILE = PROJECT / "molecule" / "interruptions" / "tests" / "rounds.py"
spec = importlib.util.spec_from_file_location("rounds", FILE)
rounds = importlib.util.module_from_spec(spec)
sys.modules["rounds"] = rounds  # where dataclasses look for it
spec.loader.exec_module(rounds)

MANY = [rounds.choose("7", number) for number in range(1, 2000)]


def test_a_seed_and_a_number_choose_the_same_again():
    assert rounds.choose("7", 17) == MANY[16]
    assert MANY[16].command == "make interruptions SEED=7 ROUND=17"
    assert [rounds.choose("8", number) for number in range(1, 2000)] != MANY


def test_every_change_fault_and_moment_comes_up():
    assert {choices.change for choices in MANY} == set(rounds.CHANGES)
    assert {choices.fault for choices in MANY} == set(rounds.FAULTS)
    assert {choices.moment for choices in MANY} == {
        rounds.SHARE, rounds.CODE, rounds.PIP, rounds.LOADS, rounds.WAITS, rounds.SWITCH,
    }  # fmt: skip


def test_pip_is_killed_where_it_runs_and_nobody_insists_on_a_bad_version():
    assert all(choices.moment == rounds.PIP for choices in MANY if choices.fault in rounds.OF_PIP)
    assert all(choices.change == "requirements" for choices in MANY if choices.moment == rounds.PIP)
    assert all(choices.is_given_up for choices in MANY if choices.change == "bad")


def outcome(choices=MANY[0], **result):
    return rounds.Outcome(choices, "a-host", results=[Result(**result)])


@pytest.mark.parametrize(
    ("window", "outside"),
    [(None, 2), ((10.0, 12.0), 1), ((13.0, 15.0), 1), ((10.0, 15.0), 0), ((16.0, 17.0), 2)],
)
def test_a_failed_request_is_excused_by_a_window_that_it_was_under_way_in(window, outside):
    found = outcome(failed=2, failed_between=[(11.0, 12.5), (14.0, 14.5)])
    found.windows = [(*window, "the host was killed")] if window else []
    found.judge_failures()
    assert [line.split()[0] for line in found.amiss] == ([str(outside)] if outside else [])


def of(is_given_up):
    return next(choices for choices in MANY if choices.is_given_up == is_given_up)


@pytest.mark.parametrize(
    ("seen", "is_given_up", "words"),
    [
        (["a 1", "b 2"], False, ""),
        (["a 1", "b 2", "a 1"], True, ""),
        (["a 1", "b 2", "a 1"], False, "the answers went back and forth: a 1 -> b 2 -> a 1"),
        (["a 1", "b 2", "a 1", "b 2"], True, "the answers went back and forth"),
        (["a 1", "b 1"], False, "an answer of b 1, which is neither of"),
        (["a 1", "c 3"], False, "an answer of c 3, which is neither of"),
    ],
)
def test_answers_are_of_one_version_each_and_do_not_go_to_and_fro(seen, is_given_up, words):
    found = outcome(of(is_given_up), releases=seen)
    found.judge_answers({"a": "a 1", "b": "b 2"})
    assert bool(found.amiss) == bool(words)
    assert words in "".join(found.amiss)
