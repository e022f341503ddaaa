"""What kills cost a fine-tune: ten of its worker and ten of its command, at random moments; steps and seconds are printed."""

import statistics

import pytest
from killing import Killed
from tiny_base import make_base

pytestmark = pytest.mark.bench

KILLS = 10
MINUTES = 0.05


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("what", ["worker", "driver"])
def test_ten_kills(tmp_path, what, capsys):
    steps = 2400 if what == "worker" else 1600
    options = {"steps": steps, "minutes": MINUTES, "max_failures": KILLS}
    run = Killed(make_base(tmp_path / "base"), tmp_path / "store", options, seed=1)
    expected = run.unbroken_curve()
    run.start()
    for _ in range(KILLS):
        run.kill(what)
    found = run.finish()
    curve = run.store.read_curves(run.trial_id)
    pace = statistics.median(record["tokens"] / record["tokens_per_second"] for record in curve)
    lost = [kill.seconds_lost for kill in run.kills]
    recovery = [kill.seconds_to_recover for kill in run.kills]
    trial = run.store.read_trial(run.trial_id)["training"]
    with capsys.disabled():
        print(f"\n{KILLS} × SIGKILL of the {what}, a snapshot every {60 * MINUTES:g} s, {1000 * pace:.0f} ms a step:")
        print(f"  lost: {min(lost):.1f} to {max(lost):.1f} s of work, at most {max(lost) / pace:.0f} steps")
        print(
            f"  until the next step: {min(recovery):.1f} to {max(recovery):.1f} s, median {statistics.median(recovery):.1f} s"
        )
        print(
            f"  went on after steps {[one['after_step'] for one in trial['resumed']]}; curve equal: {found == expected}"
        )
    assert found == expected
    assert len(trial["resumed"]) == KILLS
    assert max(lost) <= 60 * MINUTES + 1.5
