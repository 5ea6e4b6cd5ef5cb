"""The program's output on its way to whoever reads it, or does not."""

from __future__ import annotations

import os
import pty
import subprocess

from supervised import run, supervised

MANY = 3 << 20  # bytes: more than all buffers on the way hold


def test_a_reader_that_stalls_never_makes_the_program_wait(tmp_path):
    """The program ends although nobody reads a byte; what comes first is there as it was written."""
    body = f"""
    for line in range({MANY} // 1024):
        os.write(1, b"%d:" % line + b"x" * 1000 + bytes([10]))
    end()
    """
    with supervised(tmp_path, body, stderr=subprocess.DEVNULL) as process:
        assert process.wait() == 0
        lines = process.stdout.read().splitlines()
    assert len(lines) > 50
    assert all(line.startswith(f"{number}:") for number, line in enumerate(lines))


def test_what_was_dropped_is_said_where_it_is_missing(tmp_path):
    """A reader that comes back finds a line with the number of bytes, and then what was written since."""
    body = f"""
    for line in range({MANY} // 1024):
        os.write(1, b"x" * 1023 + bytes([10]))
    os.close(os.open("written", os.O_CREAT | os.O_WRONLY))
    while not os.path.exists("read"):
        time.sleep(0.01)
    say("at last")
    end()
    """
    with supervised(tmp_path, body, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "written").exists():
            assert process.poll() is None
        first = process.stdout.readline()
        told = next(line for line in process.stdout if line.startswith("resilient: "))
        (tmp_path / "read").touch()
        rest = process.stdout.read()
    assert first == "x" * 1023 + "\n"
    assert told.endswith(" bytes of output were dropped here: nobody read them.\n")
    assert rest.endswith("at last\n")


def test_what_is_dropped_last_is_said_too(tmp_path):
    """Also where the program says nothing more after it."""
    body = f"""
    for line in range({MANY} // 1024):
        os.write(1, b"x" * 1023 + bytes([10]))
    os.close(os.open("written", os.O_CREAT | os.O_WRONLY))
    end()
    forever()
    """
    with supervised(tmp_path, body, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "written").exists():
            assert process.poll() is None
        assert next(line for line in process.stdout if line.startswith("resilient: "))


def test_a_dead_terminal_does_not_disturb_the_program(tmp_path):
    """Its window is closed; the program goes on writing and ends well."""
    terminal, ours = pty.openpty()
    with supervised(tmp_path, "begin(); input(); say('x' * 100000); end()", stdin=subprocess.PIPE, stdout=ours, stderr=ours) as process:
        os.close(ours)
        assert b"attempt 1 begins" in os.read(terminal, 1000)
        os.close(terminal)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait() == 0


def test_where_output_and_error_are_one_their_order_is_kept(tmp_path):
    """As in a log that both are redirected to, with the supervisor's own lines between."""
    body = "[os.write(1 + number % 2, b'%d ' % number) for number in range(200)]; end()"
    done = run(tmp_path, body, stderr=subprocess.STDOUT)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("resilient: attempt 1 begins")
    assert lines[1].split() == [str(number) for number in range(200)]
    assert lines[2].startswith("resilient: attempt 1 is done")


def test_a_log_file_is_appended_to(tmp_path):
    """Redirected to the end of a file, nothing that was there is overwritten."""
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("a") as file:
        run(tmp_path, "say('said'); end()", stdout=file, stderr=file)
    lines = log.read_text().splitlines()
    assert lines[0] == "before" and "said" in lines
