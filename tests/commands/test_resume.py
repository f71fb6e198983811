"""`quals-fast score` with --resume, --overwrite and --shard: whole outputs, whatever happens."""

import errno
import json
import os
import random
import signal
import time
from pathlib import Path

import killed
import pytest
from cli_helpers import DOCUMENT, GOOD, SMALL, SUMMARIES, assert_usage_error, json_lines, row, write

from quals_fast import QualsScorer
from quals_fast.commands.running import JobProgress, ScoringJob
from quals_fast.jobs.inputs import MAX_WINDOW_ROWS as WINDOW
from quals_fast.pages.display import progress_bar

N_ROWS = 2 * WINDOW + 20


def many(n=N_ROWS):
    """Return rows of different lengths, one of them bad."""
    summaries = list(SUMMARIES.values())
    rows = [
        {"id": i, "document": " ".join([DOCUMENT] * (1 + i % 3)), "summary": summaries[i % 4]}
        for i in range(n)
    ]
    rows[WINDOW + 1]["summary"] = None
    return rows


@pytest.fixture
def whole(run):
    """Write the input and the output of a job that nothing interrupts; return the output."""
    write("in.jsonl", many())
    assert run("score", "in.jsonl", "-o", "whole.jsonl").exit_code == 1
    return Path("whole.jsonl").read_bytes()


def score_until(run, monkeypatch, error, *arguments, calls=1):
    """Run a job whose scorer fails after some windows."""
    real = QualsScorer.score
    with monkeypatch.context() as patch:

        def score(*args, **kwargs):
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise error
            return real(*args, **kwargs)

        patch.setattr(QualsScorer, "score", score)
        return run("score", "in.jsonl", "-o", "out.jsonl", *arguments)


def interrupt(run, monkeypatch, *arguments):
    result = score_until(run, monkeypatch, KeyboardInterrupt, *arguments)
    assert result.exit_code == 130
    return result


# Killed


def killed_and_resumed(folder, settings, moment, n, whole):
    """Kill a job, resume it, and compare its output with that of a job that was not killed."""
    arguments = ["score", "in.jsonl", "-o", "out.jsonl", *settings]
    process = killed.start("SIGKILL", moment, n, arguments, cwd=folder)
    if moment == "seconds":
        time.sleep(n)
        process.kill()
    process.communicate()
    if moment == "seconds" and process.returncode == 1:  # it has finished before
        (folder / "out.jsonl").unlink()
        return killed_and_resumed(folder, settings, moment, n / 2, whole)
    assert process.returncode == -signal.SIGKILL
    out, part = folder / "out.jsonl", folder / "out.jsonl.part"
    assert not out.exists()
    print(f"killed while {moment} {n}; {part.stat().st_size if part.exists() else 'no'} bytes")
    process = killed.start("SIGKILL", "never", 0, [*arguments, "--resume"], cwd=folder)
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert errors.decode().splitlines()[-1].startswith(f"{N_ROWS} rows: ")
    assert out.read_bytes() == whole
    assert not part.exists()


@pytest.mark.parametrize(
    ("moment", "n"),
    [("reading", N_ROWS + WINDOW + 3), ("scoring", WINDOW + 9), ("writing", 0.7)],
    ids=["reading", "scoring", "writing"],
)
def test_a_killed_job_goes_on_to_the_same_bits(run, whole, model, tmp_path, moment, n):
    settings = ["--model", model, "--device", "cpu", *SMALL]
    n = round(n * len(whole)) if moment == "writing" else n
    killed_and_resumed(tmp_path, settings, moment, n, whole)


@pytest.fixture(scope="module")
def long_job(tmp_path_factory, example_rows):
    """Score short texts with the bundled model; return input, settings, output and seconds."""
    rows = [
        {
            "document": " ".join(one["document"].split()[: 5 + i % 10]),
            "summary": " ".join(one["summary"].split()[: 3 + i % 5]),
        }
        for i, one in enumerate(example_rows * 4)
    ][:N_ROWS]
    rows[3]["summary"] = None
    folder = tmp_path_factory.mktemp("long")
    write(folder / "in.jsonl", rows)
    settings = "--device cpu --num-beams 2 --num-beam-groups 2 --max-length 8".split()
    arguments = ["score", "in.jsonl", "-o", "out.jsonl", *settings]
    begin = time.monotonic()
    process = killed.start("SIGKILL", "never", 0, arguments, cwd=folder)
    process.communicate()
    seconds = time.monotonic() - begin
    assert process.returncode == 1
    text = (folder / "in.jsonl").read_text()
    return text, settings, (folder / "out.jsonl").read_bytes(), seconds


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_job_killed_at_a_random_moment_goes_on_to_the_same_bits(long_job, tmp_path, seed):
    text, settings, whole, seconds = long_job
    (tmp_path / "in.jsonl").write_text(text)
    moments = {
        "reading": 2 * N_ROWS,  # first to count them
        "scoring": N_ROWS - 1,
        "writing": len(whole) - 1,
        "replacing": 6,  # records: at first, of 3 windows and of the end; then the output
        "seconds": seconds,
    }
    moment = list(moments)[seed % len(moments)]
    draw = random.Random(seed)
    n = draw.uniform(0, 0.9) * moments[moment]
    n = n if moment == "seconds" else 1 + int(n)
    killed_and_resumed(tmp_path, settings, moment, n, whole)


# Interrupted


def test_control_c_is_one_line_and_the_job_goes_on(run, whole, monkeypatch):
    result = interrupt(run, monkeypatch)
    assert result.stdout == ""
    assert result.stderr == f"interrupted; out.jsonl.part has {WINDOW} rows; go on with --resume\n"
    assert not Path("out.jsonl").exists()
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert result.exit_code == 1  # because of the bad row
    assert result.stderr.startswith(f"{N_ROWS} rows: ")
    assert Path("out.jsonl").read_bytes() == whole
    assert sorted(p.name for p in Path().glob("out*")) == ["out.jsonl", "out.jsonl.resume"]


def test_a_real_signal(run, whole, model, tmp_path):
    arguments = ["score", "in.jsonl", "-o", "out.jsonl", "--model", model, "--device", "cpu"]
    process = killed.start("SIGINT", "scoring", WINDOW + 1, [*arguments, *SMALL], cwd=tmp_path)
    assert process.communicate() == (
        b"",
        f"interrupted; out.jsonl.part has {WINDOW} rows; go on with --resume\n".encode(),
    )
    assert process.returncode == 130


@pytest.mark.parametrize("command", ["score", "explain", "evaluate"])
def test_control_c_without_an_output_file(run, monkeypatch, command):
    write("in.jsonl", [one | {"label": 1} for one in GOOD])

    def score(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(QualsScorer, "score", score)
    result = run(command, "in.jsonl")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_the_summary_of_a_resumed_job_is_that_of_the_whole(run, monkeypatch):
    write("in.jsonl", many())
    whole = run("score", "in.jsonl", "-o", "whole.csv", "--rows", "3")
    assert "errors at line 66; " in whole.stderr
    score_until(run, monkeypatch, KeyboardInterrupt, "--rows", "3")
    for _ in range(2):
        result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume", "--rows", "3")
        assert (result.exit_code, result.stderr) == (1, whole.stderr)
        assert result.stdout == whole.stdout


def test_csv_goes_on_after_its_header(run, monkeypatch):
    write("in.jsonl", many())
    run("score", "in.jsonl", "-o", "whole.csv")
    real = QualsScorer.score
    calls = iter([real, None])

    def score(*args, **kwargs):
        if (step := next(calls)) is None:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(QualsScorer, "score", score)
        assert run("score", "in.jsonl", "-o", "out.csv").exit_code == 130
    assert run("score", "in.jsonl", "-o", "out.csv", "--resume").exit_code == 1
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_half_a_line_is_cut_off(run, whole, monkeypatch):
    interrupt(run, monkeypatch)
    with open("out.jsonl.part", "ab") as file:
        file.write(b'{"id": 99, "sco')
    assert run("score", "in.jsonl", "-o", "out.jsonl", "--resume").exit_code == 1
    assert Path("out.jsonl").read_bytes() == whole


def test_resume_begins_if_there_is_nothing(run, whole):
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert result.exit_code == 1
    assert Path("out.jsonl").read_bytes() == whole


# Refused

OTHER = [
    pytest.param("--num-beam-groups 3", "the signature was … beams:6/6 … beams:6/3", id="s"),
    pytest.param("--pairs", "--pairs was False, but is now True", id="pairs"),
    pytest.param("--spans", "--spans was False, but is now True", id="spans"),
    pytest.param("--rows 3", "--rows was None, but is now 3", id="rows"),
    pytest.param("--encoding latin-1", "--encoding was utf-8, but is now latin-1", id="encoding"),
    pytest.param("--shard 1/2", "--shard was None, but is now 1/2", id="shard"),
    pytest.param("--format jsonl", "--format was auto, but is now jsonl", id="format"),
    pytest.param(
        "--summary-field document", "--summary-field was summary, but is now document", id="field"
    ),
]


@pytest.mark.parametrize("is_whole", [False, True], ids=["part", "whole"])
@pytest.mark.parametrize(("options", "message"), OTHER)
def test_another_job_is_refused(run, monkeypatch, model, options, message, is_whole):
    write("in.jsonl", many())
    interrupt(run, monkeypatch)
    if is_whole:
        run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    settings = ["--model", str(model), "--device", "cpu", *SMALL, *options.split()]
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume", *settings, small=False)
    assert_usage_error(result, f"cannot resume out.jsonl: {message} … --overwrite")
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_other_input_is_refused(run, monkeypatch):
    write("in.jsonl", many())
    interrupt(run, monkeypatch)
    write("in.jsonl", [*many()[:-1], row("a")])
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert_usage_error(result, "the input was in.jsonl@ … , but is now in.jsonl@")
    write("in.jsonl", many())
    write("b.jsonl", GOOD)
    result = run("score", "in.jsonl", "b.jsonl", "-o", "out.jsonl", "--resume")
    assert_usage_error(result, "the input was no file, but is now b.jsonl@")


def test_another_version_is_not_another_job(run, whole, monkeypatch):
    interrupt(run, monkeypatch)
    monkeypatch.setattr("quals_fast.signature.__version__", "9.9.9")
    assert run("score", "in.jsonl", "-o", "out.jsonl", "--resume").exit_code == 1
    found = [line["signature"].split("|")[-1] for line in json_lines(Path("out.jsonl").read_text())]
    assert found[:WINDOW] == json_lines(whole.decode())[0]["signature"].split("|")[-1:] * WINDOW
    assert set(found[WINDOW:]) == {"version:9.9.9"}


def test_an_existing_output_is_kept_unless_asked(run, whole, monkeypatch):
    result = run("score", "in.jsonl", "-o", "whole.jsonl")
    assert_usage_error(result, "whole.jsonl exists; … --overwrite … another name")
    interrupt(run, monkeypatch)
    result = run("score", "in.jsonl", "-o", "out.jsonl")
    assert_usage_error(result, "out.jsonl.part has rows … --resume … --overwrite")
    write("in.jsonl", GOOD)
    for name in ("out.jsonl", "whole.jsonl"):
        assert run("score", "in.jsonl", "-o", name, "--overwrite").exit_code == 0
        assert len(Path(name).read_text().splitlines()) == 4
    assert sorted(p.name for p in Path().iterdir()) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


def test_the_old_output_stays_until_the_new_one_is_whole(run, whole, monkeypatch):
    Path("whole.jsonl").rename("out.jsonl")
    interrupt(run, monkeypatch, "--overwrite")
    assert Path("out.jsonl").read_bytes() == whole
    assert run("score", "in.jsonl", "-o", "out.jsonl", "--resume").exit_code == 1
    assert Path("out.jsonl").read_bytes() == whole


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.part"])
def test_files_of_unknown_origin_are_not_resumed(run, name):
    write("in.jsonl", GOOD)
    Path(name).write_text('{"id": 1}\n')
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert_usage_error(result, "cannot resume out.jsonl … no out.jsonl.resume … --overwrite")
    assert Path(name).read_text() == '{"id": 1}\n'


def test_files_that_were_changed_are_not_resumed(run, whole, monkeypatch):
    interrupt(run, monkeypatch)
    content = Path("out.jsonl.part").read_bytes()
    Path("out.jsonl.part").write_bytes(content[:-1])
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert_usage_error(result, "out.jsonl.part is shorter than when it was written")
    Path("out.jsonl.part").write_bytes(content)
    record = Path("out.jsonl.resume").read_text()
    Path("out.jsonl.resume").write_text(record[:-5])
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert_usage_error(result, "out.jsonl.resume cannot be read (")
    Path("out.jsonl.resume").write_text(record)
    assert run("score", "in.jsonl", "-o", "out.jsonl", "--resume").exit_code == 1
    with open("out.jsonl", "a") as file:
        file.write("{}\n")
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert_usage_error(result, "it has changed since it was written")


def test_a_second_job_on_the_same_file_is_refused(run, whole, monkeypatch):
    interrupt(run, monkeypatch)
    fcntl = pytest.importorskip("fcntl", reason="only Unix has it")
    with open("out.jsonl.part", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
        assert_usage_error(result, "another job is writing out.jsonl.part; wait for it, or stop it")


USELESS = [
    ("in.jsonl --resume", "--resume needs the name of a file, but got no -o; add -o FILE"),
    ("in.jsonl -o - --resume", "--resume needs the name of a file, but got -o -"),
    ("in.jsonl -o - --overwrite", "--overwrite needs the name of a file, but got -o -"),
    ("in.jsonl -o out --resume --overwrite", "--resume keeps what --overwrite replaces"),
    ("- -o out --resume", "--resume needs input that can be read again, but got standard input"),
    ("- -o out --shard 1/2", "`--shard` needs files, but got standard input"),
    ("in.jsonl --shard 0/2", "`--shard` must be i/n … from 1/n to n/n, but got '0/2'; … from 1"),
    ("in.jsonl --shard 3/2", "but got '3/2'"),
    ("in.jsonl --shard 2", "but got '2'"),
    ("in.jsonl --shard -1/2", "but got '-1/2'"),
    ("in.jsonl --shard 1/0", "but got '1/0'"),
]


@pytest.mark.parametrize(("arguments", "message"), USELESS, ids=[one for one, _ in USELESS])
def test_options_that_cannot_work(run, arguments, message):
    write("in.jsonl", GOOD)
    assert_usage_error(run("score", *arguments.split(), stdin=""), message)
    assert [path.name for path in Path().iterdir()] == ["in.jsonl"]


def test_a_pipe_as_input_gives_a_whole_file_that_cannot_be_resumed(run, monkeypatch):
    stdin = "".join(json.dumps(one) + "\n" for one in GOOD)
    assert run("score", "-", "-o", "out.jsonl", stdin=stdin).exit_code == 0
    assert [path.name for path in Path().iterdir()] == ["out.jsonl"]

    def score(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(QualsScorer, "score", score)
    result = run("score", "-", "-o", "b.jsonl", stdin=stdin)
    assert result.stderr == "interrupted; b.jsonl.part has 0 rows\n"


# Shards


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_outputs_of_all_shards_are_that_of_one_job(run, whole, n):
    for i in range(1, n + 1):
        result = run("score", "in.jsonl", "-o", f"{i}.jsonl", "--shard", f"{i}/{n}", "--resume")
        assert result.exit_code in (0, 1)
    joined = b"".join(Path(f"{i}.jsonl").read_bytes() for i in range(1, n + 1))
    assert joined == whole


# Failures


def test_a_full_disk_is_one_line_and_the_job_goes_on(run, whole, monkeypatch):
    fsync, calls = os.fsync, 0

    def fail(descriptor):
        nonlocal calls
        calls += 1
        if calls > 4:  # of the second window's rows
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        result = run("score", "in.jsonl", "-o", "out.jsonl")
    message = f"out.jsonl.part has {WINDOW} rows; go on with --resume"
    assert_usage_error(result, f"cannot write out.jsonl: No space left on device; {message}")
    assert run("score", "in.jsonl", "-o", "out.jsonl", "--resume").exit_code == 1
    assert Path("out.jsonl").read_bytes() == whole


def test_a_file_that_may_not_grow(run, whole):
    """As on a full disk, from the system itself."""
    resource = pytest.importorskip("resource", reason="only Unix has it")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2 + 100, limits[1]))
    try:
        result = run("score", "in.jsonl", "-o", "out.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_usage_error(result, f"cannot write out.jsonl: File too large; … {WINDOW} rows")
    assert run("score", "in.jsonl", "-o", "out.jsonl", "--resume").exit_code == 1
    assert Path("out.jsonl").read_bytes() == whole


def test_fail_fast_leaves_a_part_that_goes_on_without_it(run, whole):
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--fail-fast")
    assert result.exit_code == 1
    stopped, counts = result.stderr.splitlines()
    assert stopped == "stopped at the first error; the rows up to it are in out.jsonl.part"
    assert counts.startswith(f"{WINDOW + 2} rows: ")
    assert len(Path("out.jsonl.part").read_text().splitlines()) == WINDOW + 2
    assert not Path("out.jsonl").exists()
    assert run("score", "in.jsonl", "-o", "out.jsonl", "--resume").exit_code == 1
    assert Path("out.jsonl").read_bytes() == whole


def test_a_folder_is_no_output(run):
    write("in.jsonl", GOOD)
    Path("out").mkdir()
    for option in ("--quiet", "--overwrite", "--resume"):
        result = run("score", "in.jsonl", "-o", "out", option)
        assert_usage_error(result, "cannot write out: Is a directory")


def test_a_link_keeps_pointing_to_the_results(run):
    write("in.jsonl", GOOD)
    Path("far").mkdir()
    Path("out.jsonl").symlink_to("far/scores.jsonl")
    assert run("score", "in.jsonl", "-o", "out.jsonl").exit_code == 0
    assert Path("out.jsonl").is_symlink()
    assert len(Path("far/scores.jsonl").read_text().splitlines()) == 4


def test_no_permission_is_found_before_the_model_is_loaded(run, monkeypatch):
    write("in.jsonl", GOOD)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--model", "none", small=False)
    assert_usage_error(result, "cannot write out.jsonl: Permission denied")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(run):
    write("in.jsonl", GOOD)
    Path("locked").mkdir(mode=0o500)
    result = run("score", "in.jsonl", "-o", "locked/out.jsonl")
    assert_usage_error(result, "cannot write locked/out.jsonl: Permission denied")
    Path("locked").chmod(0)
    result = run("score", "in.jsonl", "-o", "locked/out.jsonl")
    assert_usage_error(result, "cannot write locked/out.jsonl: Permission denied")
    for command in ("score", "report"):
        result = run(command, "locked/in.jsonl", "-o", "out", small=False)
        assert_usage_error(result, "cannot read locked/in.jsonl: Permission denied")
    assert_usage_error(run("score", "locked/*"), "no file matches locked/*")


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.part", "out.jsonl.resume"])
def test_no_file_of_the_output_is_an_input(run, name):
    write(name, GOOD)
    for option in ("--quiet", "--overwrite", "--resume"):
        result = run("score", name, "-o", "out.jsonl", option)
        assert_usage_error(result, "must not be the same file as INPUT, but both are ")
        assert len(Path(name).read_text().splitlines()) == 4


# Progress


def test_progress_without_a_terminal_is_a_line_now_and_then(run, monkeypatch):
    write("in.jsonl", many())
    monkeypatch.setattr("quals_fast.commands.running.LOG_SECONDS", 0)
    result = run("score", "in.jsonl", "-o", "out.jsonl")
    first, second, _ = result.stderr.splitlines()
    assert first.startswith(f"{WINDOW} of {N_ROWS} rows: 48 ok, 16 no_pairs")
    assert "rows/s, 0:0" in second and " left" in second
    assert second.startswith(f"{2 * WINDOW} of {N_ROWS} rows: ") and "1 error" in second
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--overwrite", "--quiet")
    assert result.stderr == ""


def test_rate_of_windows_that_take_long_and_report_their_rows_at_once(monkeypatch, capsys):
    clock = 0.0

    def slow_windows(scorer, rows, *, fail_fast, on_progress):
        nonlocal clock
        for _ in range(2):
            clock += 64.0
            on_progress(WINDOW // 2)
            clock += 0.1
            on_progress(WINDOW // 2)
            yield []

    monkeypatch.setattr("quals_fast.commands.running.score_windows", slow_windows)
    monkeypatch.setattr("quals_fast.commands.running.LOG_SECONDS", 0)
    progress = progress_bar(hidden=True)
    progress.get_time = lambda: clock
    task = progress.add_task("loading the model", total=4 * WINDOW, counts="")
    job = ScoringJob(None, [], 4 * WINDOW, [], False, JobProgress(progress, task, True))
    for _ in job.windows():
        job.progress.show("")
    first, second = capsys.readouterr().err.splitlines()
    assert "; 1.0 rows/s, 0:03:1" in first
    assert "; 1.0 rows/s, 0:02:0" in second
