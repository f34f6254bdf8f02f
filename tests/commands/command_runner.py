"""Run a command in this process, and check that one failed with one clear line."""

from pcam_tf import __main__


def run(*words) -> int:
    """Return the exit status."""
    return __main__.main([str(word) for word in words])


def refused(status: int, capfd, message: str) -> None:
    """Check that a command failed with one clear line and no traceback."""
    assert status == 2
    printed = capfd.readouterr().err
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, printed
    assert message in errors[0]
    assert "Traceback" not in printed
