"""The console: a bar on a terminal, plain lines elsewhere, and logging out of the way."""

from __future__ import annotations

import io
import logging
import time
import warnings
from pathlib import Path

from rubric_rl.observability.console import Console, quiet_logging
from rubric_rl.observability.printable import printable


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


STEP = {
    "reward__mean": 0.5123,
    "policy__kl_ref": 0.00312,
    "judge__coverage_mean": 1.0,
    "rollout__tokens_per_s": 118.2,
    "time__step_s": 31.44,
    "time__rollout_s": 17.4,
    "time__judge_wait_s": 0.1,
    "time__learner_s": 12.9,
    "time__weight_sync_s": 0.8,
}


def test_without_a_terminal_a_step_is_one_line(make_record) -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.begin(12)
    console.log(make_record(6, **STEP))
    console.close()
    assert stream.getvalue() == (
        "step 6/12  reward 0.512  KL 0.0031  coverage 1.00  118 tokens/s  "
        "31.4 s: rollout 17.4, judge wait 0.1, learner 12.9, weight sync 0.8\n"
    )


def test_money_is_shown_once_it_is_spent(make_record) -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.log(make_record(1, reward__mean=0.5, judge__spent_usd=0.0))
    console.log(make_record(2, reward__mean=0.5, judge__spent_usd=1.239))
    assert stream.getvalue() == "step 1  reward 0.500\nstep 2  reward 0.500  judges $1.24\n"


def test_an_evaluation_adds_a_line_with_its_interval(make_record) -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.log(make_record(0, eval__reward_mean=0.4, eval__reward_ci95=0.05))
    assert stream.getvalue().splitlines()[1] == "step 0: held-out reward 0.400 +/- 0.050"


def test_a_refinement_says_what_it_came_to_and_evaluations_then_name_the_first_rubrics(
    make_record,
) -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    refined = {"refined_prompts": 18, "accepted": 14, "rejected": 6, "failed": 0}
    ties = {"top_ties_before": 2.167, "top_ties_after": 1.278}
    metrics = {f"rubric__{name}": value for name, value in (refined | ties).items()}
    console.log(make_record(6, **metrics, time__refinement_s=1.06))
    console.log(make_record(12, eval__reward_mean=0.492, eval__anchor_reward_mean=0.505))
    console.log(make_record(18, eval__reward_mean=0.5, eval__gold_mean=0.25))
    assert stream.getvalue().splitlines() == [
        "step 6  refinement 1.1",
        "step 6: refined the rubrics of 18 prompts: 14 proposals accepted, 6 rejected, 0 failed; "
        "answers tied at the top 2.17 -> 1.28",
        "step 12",
        "step 12: held-out reward 0.492, 0.505 under the run's first rubrics",
        "step 18",
        "step 18: held-out reward 0.500, gold 0.250",
    ]


def test_an_evaluation_on_its_own_does_not_repeat_the_step_before(make_record) -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.log(make_record(6, reward__mean=0.5))
    console.log(make_record(6, eval__reward_mean=0.4, time__eval_s=3.0))
    assert stream.getvalue().splitlines() == [
        "step 6  reward 0.500",
        "step 6  eval 3.0",
        "step 6: held-out reward 0.400",
    ]


def test_without_a_terminal_status_is_a_line_every_thirty_seconds_at_most() -> None:
    stream, clock = io.StringIO(), _Clock()
    console = Console(stream=stream, clock=clock)
    for seconds in range(0, 65, 5):
        clock.now = float(seconds)
        console.status(f"waited {seconds} s")
    assert stream.getvalue() == "waited 30 s\nwaited 60 s\n"


def test_progress_off_gives_plain_lines_on_a_terminal_too(make_record) -> None:
    stream = _Terminal()
    console = Console(stream=stream, progress=False)
    console.begin(12)
    console.log(make_record(1, **STEP))
    assert stream.getvalue().startswith("step 1/12  reward 0.512")
    assert "\x1b[" not in stream.getvalue()


def test_on_a_terminal_the_bar_shows_step_metrics_phases_and_status(
    monkeypatch, make_record
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream = _Terminal()
    console = Console(stream=stream)
    console.begin(12, completed=5)
    console.log(make_record(6, **STEP))
    console.status("rollout: 12 of 32 samples, 9 judged")
    time.sleep(0.6)  # the bar redraws four times a second
    console.note("a note [with brackets]")
    console.close()
    shown = stream.getvalue()
    for part in (
        "6/12",
        "reward 0.512  KL 0.0031  coverage 1.00  118 tokens/s",
        "31.4 s: rollout 17.4, judge wait 0.1, learner 12.9, weight sync 0.8",
        "rollout: 12 of 32 samples, 9 judged",
        "a note [with brackets]",
    ):
        assert part in shown


def test_notes_and_warnings_can_be_written_after_close() -> None:
    stream = io.StringIO()
    console = Console(stream=stream)
    console.close()
    console.note("done")
    console.warn("but [slow]")
    assert stream.getvalue() == "done\nwarning: but [slow]\n"


def test_long_lines_are_not_wrapped_in_plain_output() -> None:
    stream = io.StringIO()
    Console(stream=stream).note("word " * 60)
    assert stream.getvalue().count("\n") == 1


def test_an_escape_sequence_in_a_message_is_not_sent_to_the_terminal() -> None:
    stream = io.StringIO()
    Console(stream=stream).warn("judge said \x1b[2Jgone")
    assert stream.getvalue() == "warning: judge said ?[2Jgone\n"


def test_printable_keeps_text_and_replaces_controls() -> None:
    assert printable("caf\u00e9\n\tx") == "caf\u00e9\n\tx"
    assert printable("a\x07b\u202ec\ud800\r") == "a?b?c??"


def test_a_document_is_shown_as_it_is_without_a_terminal() -> None:
    stream = io.StringIO()
    Console(stream=stream).show("# Title\n\n| a | b |\n|---|---|\n")
    assert stream.getvalue() == "# Title\n\n| a | b |\n|---|---|\n"


def test_logging_goes_to_the_file_and_only_our_warnings_to_the_console(tmp_path: Path) -> None:
    stream = io.StringIO()
    with quiet_logging(tmp_path, Console(stream=stream)):
        logging.getLogger("rubric_rl.somewhere").info("detail")
        logging.getLogger("rubric_rl.somewhere").warning("judge is %s", "slow")
        logging.getLogger("chatty").warning("chatter")
        warnings.warn("old call", UserWarning, stacklevel=1)
    assert stream.getvalue() == "warning: judge is slow\n"
    written = (tmp_path / "logs" / "controller.log").read_text(encoding="utf-8")
    for part in ("INFO rubric_rl.somewhere: detail", "judge is slow", "chatter", "old call"):
        assert part in written


def test_logging_is_restored_afterwards(tmp_path: Path) -> None:
    root, ours = logging.getLogger(), logging.getLogger("rubric_rl")
    before = (root.handlers[:], root.level, ours.handlers[:], ours.level)
    with quiet_logging(tmp_path, Console(stream=io.StringIO())):
        assert root.handlers != before[0]
    assert (root.handlers[:], root.level, ours.handlers[:], ours.level) == before
