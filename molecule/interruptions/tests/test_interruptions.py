"""Whatever is killed or removed at whatever moment: no client gets a wrong answer, and one clean run makes up for it."""

import pytest
import rounds

pytestmark = pytest.mark.full


def test_a_round(on_host, choices):
    outcome = rounds.Round(on_host, choices).run()
    rounds.OUTCOMES.append(outcome)
    print(outcome.report())
    assert not outcome.amiss, outcome.report()
