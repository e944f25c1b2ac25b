"""Which of two runs is better, and how sure that is: the words, and what is not compared."""

from dataclasses import replace

import numpy as np
import pytest

from sft.past.bootstrap import needed, of_difference
from sft.past.comparison import Compared
from sft.past.differences import Difference, Measured
from sft.past.uncertainty import Interval
from sft.past.verdicts import verdicts
from sft.record.examples import Examples

TOKENS = np.random.default_rng(0).integers(5, 90, 48).astype(float)
HARD = np.random.default_rng(1).gamma(4, 0.5, 48)
OTHER = np.random.default_rng(2).normal(0, 0.05, 48)


def nll(shift=0.0, noise=0.0, digest="d"):
    """48 sequences whose NLL is higher by `shift`, and by chance."""
    return Examples((HARD + shift + noise * OTHER) * TOKENS, TOKENS, digest)


def run(name, examples, **settings):
    settings = {"lr": "1e-4", "seed": "0", "lora.seed": "0"} | settings
    return Compared(name, settings, {}, [], {"eval/nll": examples})


def between(ours, theirs):
    return Difference.between(Measured("B", ours), Measured("A", theirs))


def test_a_small_difference_that_every_example_shares_is_real():
    found = between([nll(-0.03, 0.5)], [nll()])
    assert found.is_real
    assert found.words().startswith("lower by 0.029 (") and found.words().endswith("): real")


def test_the_same_difference_within_the_noise_is_not():
    found = between([nll(-0.003, 1.0)], [nll()])
    assert found.words().startswith("no difference that 48 examples can show (")
    assert found.words().endswith("would be needed for this one")


def test_the_end_of_an_interval_is_no_negative_zero():
    found = Difference(Interval(0.0196, -0.0004, 0.0396), 48, False, False)
    assert "can show (0.000 to 0.040)" in found.words()


def test_identical_runs_are_said_to_be_the_same():
    assert between([nll()], [nll()]).words() == "the same on each of 48 examples"


def test_the_interval_is_of_the_ratio_of_sums_and_the_same_each_time():
    ours, theirs = nll(-0.02, 1.0), nll()
    found = of_difference([ours], [theirs])
    assert found.middle == pytest.approx(ours.value - theirs.value)
    assert found == of_difference([ours], [theirs])
    assert found.low < found.middle < found.high


def test_so_many_examples_as_are_said_to_be_needed_show_the_difference_mostly():
    generator = np.random.default_rng(0)
    count = needed(Interval(0.1, 0.1 - 0.28, 0.1 + 0.28), 48)
    shown = 0
    for _ in range(80):
        change = generator.normal(0.1, 1.0, count)
        ones = np.ones(count)
        shown += of_difference([Examples(change, ones, "")], [Examples(0 * ones, ones, "")]).low > 0
    assert 0.65 < shown / 80 < 0.95


def test_runs_that_differ_in_their_seeds_alone_are_said_to_show_chance():
    lines = verdicts([run("a", nll()), run("b", nll(0.02, 1), seed="1")], "AB")
    assert lines[0].startswith("eval/nll: B against A: higher by 0.0")
    assert lines[0].endswith("): chance between seeds, for nothing else differs")


def test_repeats_of_a_configuration_count_together_with_the_spread_between_seeds():
    slow = [run(f"a{i}", nll(0.002 * i), seed=str(i)) for i in range(3)]
    fast = [run(f"b{i}", nll(0.1 + 0.002 * i), seed=str(i), lr="1e-3") for i in range(3)]
    (line,) = verdicts([*slow, *fast], "ABCDEF")
    assert line.startswith("eval/nll: D, E, F against A, B, C: higher by 0.1")
    far = [run(f"c{i}", nll(0.1 + spread), seed=str(i), lr="1e-3")
           for i, spread in enumerate((-0.3, 0.0, 0.3))]  # fmt: skip
    (line,) = verdicts([*slow, *far], "ABCDEF")
    assert "no difference that 48 examples and these seeds can show" in line


def test_of_more_than_two_each_is_compared_with_the_best():
    runs = [run(n, nll(s, 1), lr=n) for n, s in (("1", 0.3), ("2", 0.0), ("3", 0.1))]
    lines = verdicts(runs, "ABC")
    assert [line.partition(": lower")[0].partition(": higher")[0] for line in lines[:2]] == [
        "eval/nll: A against B",
        "eval/nll: C against B",
    ]
    runs = [
        Compared(r.name, r.settings | {"direction": "maximize"}, {}, [], r.examples) for r in runs
    ]
    assert verdicts(runs, "ABC")[0].startswith("eval/nll: B against A: lower")


def test_runs_measured_on_different_examples_are_not_compared():
    lines = verdicts([run("a", nll(digest="4f3a0011"), lr="1"), run("b", nll(digest="91bc"))], "AB")
    assert lines[0] == (
        "eval/nll: B against A: not compared: they were measured on different examples, or on "
        "other tokens of them (4f3a0011 and 91bc)"
    )


def test_a_run_that_keeps_no_examples_is_not_compared():
    old = Compared("old", {"lr": "1"}, {}, [{"step": 3, "eval/nll": 2.0}])
    lines = verdicts([run("a", nll()), old], "AB")
    assert lines == ["eval/nll: B against A: not compared: no examples are kept of B"]


def test_metrics_without_examples_are_named_in_one_line():
    rows = [{"step": 3, "eval/nll": 2.0, "eval/bpb": 0.7, "eval/own/score": 3.0}]
    runs = [Compared(n, {"lr": n}, {}, rows, {"eval/nll": nll()}) for n in ("1", "2")]
    assert verdicts(runs, "AB")[1:] == [
        "no interval of eval/bpb, eval/own/score: no examples are kept of them"
    ]
    runs[1] = Compared("2", {"lr": "2"}, {}, [{"step": 3, "eval/nll": 2.0}], runs[1].examples)
    assert len(verdicts(runs, "AB")) == 1  # there is nothing to compare


def test_a_metric_that_a_run_does_not_measure_is_said_to_be_so():
    lines = verdicts([run("a", nll()), Compared("b", {"lr": "1"}, {}, [])], "AB")
    assert lines == ["eval/nll: B against A: not compared: not measured by B"]


@pytest.mark.parametrize("count, words", [(1, "one example"), (0, "no example")])
def test_one_example_is_not_compared(count, words):
    few = Examples([1.0] * count, [1.0] * count, "d")
    lines = verdicts([run("a", few, lr="1"), run("b", few, lr="2")], "AB")
    assert lines == [
        f"eval/nll: B against A: not compared: they were measured on {words}, which says nothing "
        "of others"
    ]


def test_one_example_against_many_are_different_examples():
    one = Examples([1.0], [1.0], "4f3a0011")
    (line,) = verdicts([run("a", one, lr="1"), run("b", nll(digest="91bc"), lr="2")], "AB")
    assert "not compared: they were measured on different examples" in line


def test_examples_that_cannot_be_read_are_named_with_their_file():
    rows = [{"step": 6, "eval/nll": 2.0, "eval/nll_stderr": 0.1, "eval/bpb": 0.7}]
    broken = Compared("b", {"lr": "1"}, {}, rows)
    broken.unreadable = dict.fromkeys(("eval/nll", "eval/bpb"), "examples/000006.parquet")
    lines = verdicts([run("a", nll()), broken], "AB")
    words = "cannot be read (examples/000006.parquet)"
    assert lines == [f"eval/nll: B against A: not compared: the examples of B {words}"]
    lines = verdicts([broken, replace(broken, settings={"lr": "2"})], "AB")
    assert lines[0] == f"eval/nll: B against A: not compared: the examples of B and A {words}"


def test_answers_that_were_judged_in_another_way_are_not_said_to_have_other_tokens():
    ones = [1.0] * 4
    one, other = (Examples([0.0, 1.0, 1.0, 0.0], ones, digest) for digest in ("4f3a", "91bc"))
    (line,) = verdicts([run("a", one, lr="1"), run("b", other, lr="2")], "AB")
    assert line.endswith("on different examples, or judged in another way (4f3a and 91bc)")


def test_what_intervals_count_is_not_said_where_there_is_none():
    assert verdicts([run("a", nll(), lr="1"), run("b", nll(), lr="2")], "AB") == [
        "eval/nll: B against A: the same on each of 48 examples"
    ]
    lines = verdicts([run("a", nll(digest="4f3a"), lr="1"), run("b", nll(), lr="2")], "AB")
    assert len(lines) == 1


def test_a_difference_in_the_data_is_not_called_chance_between_seeds():
    one, other = run("a", nll()), run("b", nll(0.1, 1))
    one.facts["digest"], other.facts["digest"] = "1", "2"
    assert verdicts([one, other], "AB")[0].endswith("): real")


def test_a_run_and_its_reproduction_are_one_seed_and_not_two():
    runs = [run(n, nll(s), lr=lr) for n, lr, s in (("a", "1", 0), ("b", "1", 0),
                                                   ("c", "2", 0.1), ("d", "2", 0.1))]  # fmt: skip
    lines = verdicts(runs, "ABCD")
    assert lines[0].endswith("the same on each of 48 examples") or ": real" in lines[0]
    assert lines[-1].startswith("(95% intervals: they count which examples were held out, and not")
    (same,) = verdicts(runs[:2], "AB")[:1]
    assert same == "eval/nll: B against A: the same on each of 48 examples"


@pytest.mark.parametrize(
    "gained, lost, count, real",
    [(2, 0, 2, False), (5, 0, 5, False), (4, 0, 10, False), (6, 0, 6, True), (9, 1, 30, True)],
)
def test_right_answers_differ_if_the_exact_test_of_signs_says_so(gained, lost, count, real):
    ours = [1.0] * gained + [0.0] * (count - gained)
    theirs = [0.0] * gained + [1.0] * lost + [0.0] * (count - gained - lost)
    ones = [1.0] * count
    found = between([Examples(ours, ones, "")], [Examples(theirs, ones, "")])
    assert found.is_real == real
    assert -1 <= found.interval.low <= found.interval.high <= 1


def test_shares_never_differ_by_more_than_one_whatever_seeds_do():
    ones = [1.0] * 10
    seeds = [("0", "0"), ("1", "1")]
    ours = [Examples([1.0] * 9 + [0.0], ones, ""), Examples(ones, ones, "")]
    theirs = [Examples([0.0] * 10, ones, ""), Examples([1.0] * 6 + [0.0] * 4, ones, "")]
    found = Difference.between(Measured("B", ours, seeds), Measured("A", theirs, seeds))
    assert found.of_seeds and found.interval.middle == pytest.approx(0.65)
    assert -1 <= found.interval.low <= found.interval.high == 1
    alone = of_difference(ours[:1], theirs[:1])
    assert -1 <= alone.low <= alone.high <= 1


def test_values_that_are_not_finite_are_not_compared():
    broken = Examples([float("inf"), 1.0], [1.0, 1.0], "d")
    lines = verdicts([run("a", broken, lr="1"), run("b", broken, lr="2")], "AB")
    assert lines[0].endswith("not compared: an example has a value that is not finite")


def test_the_best_value_is_that_in_the_runs_own_direction():
    rows = [{"step": s, "eval/judge/error": v} for s, v in ((0, 0.9), (1, 0.1), (2, 0.5))]
    settings = {"metric": "eval/judge/error", "direction": "minimize"}
    assert Compared("a", settings, {}, rows).summary()["eval/judge/error best"] == "0.1000"
