"""The program: all commands, the options that they share, messages and exit statuses."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from pcam_tf import files
from pcam_tf.commands import (
    app,
    data,
    evaluation,
    features,
    gan,
    notebooks,
    prediction,
    slides,
    studies,
    subtypes,
    training,
)
from pcam_tf.errors import InputError

NAME = "pcam_tf"
GLOBAL_FLAGS = ("--quiet", "--debug")
COMMANDS = (
    data.prepare,
    data.audit,
    training.train,
    training.export,
    features.features,
    features.pretrain,
    prediction.predict,
    prediction.merge,
    evaluation.evaluate,
    evaluation.compare,
    evaluation.errors,
    studies.robustness,
    studies.novelty,
    studies.normalization,
    studies.protocols,
    studies.transformers,
    subtypes.subtypes,
    slides.slide,
    slides.froc,
    app.app,
    notebooks.reproduce,
)
# Commands of two words: the first, its help, and the functions.
GROUPS = {
    "gan": (
        "Generate patches of rare classes, and judge them.",
        (gan.train, gan.sample, gan.judge, gan.study),
    )
}


class Command(TyperCommand):
    """A command that takes `--option A B C` and prints the text that its function returns."""

    def parse_args(self, ctx, args):
        """Parse; click itself takes one value an option: `--option A --option B --option C`."""
        several = {name for each in self.params if each.multiple for name in each.opts}
        try:
            return super().parse_args(ctx, repeat_options(args, several))
        except typer.TyperException as error:
            error.ctx = ctx  # some errors lack it; it names the command
            raise

    def invoke(self, ctx):
        """Call the function with progress on stderr, then print its result on stdout."""
        with _progress(quiet=ctx.find_root().params["quiet"]):
            result = super().invoke(ctx)
        if result is not None:
            _print_result(result, ctx.params.values())


def _print_result(result, values):
    """Print the result of a command; on stderr if one of its outputs is standard output itself."""
    taken = any(isinstance(each, Path) and files.is_standard_output(each) for each in values)
    try:
        print(result, file=sys.stderr if taken else sys.stdout, flush=True)
    except BrokenPipeError:
        # Who read it has stopped, as `head` does. Without this, Python would complain at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def repeat_options(words: list[str], options: set[str]) -> list[str]:
    """Return `words` with each of `options` repeated before each of the values that follow it."""
    repeated, option = [], None
    for number, word in enumerate(words):
        if word == "--":
            return repeated + words[number:]
        if word.startswith("-"):
            option = word if word in options else None
        elif option and repeated[-1] != option:
            repeated.append(option)
        repeated.append(word)
    return repeated


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[None]:
    """Send all that is printed to stderr, or to nowhere: stdout is for the result alone."""
    with contextlib.ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        try:
            print(NAME, metadata.version(NAME))
        except metadata.PackageNotFoundError:
            print(NAME, "from a clone that is not installed")
        raise typer.Exit


def _shared_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", help="No progress bars and no messages, only results, warnings and errors."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Detect breast-cancer metastasis in histopathology patches (PatchCamelyon).

    For research only, not a medical device.
    """


def _program() -> typer.Typer:
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
    program = typer.Typer(
        name=NAME,
        callback=_shared_options,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=settings,
        epilog="COMMAND --help explains a command. --quiet and --debug also work after it.",
    )
    for function in COMMANDS:
        program.command(cls=Command, context_settings=settings)(function)
    for name, (explained, functions) in GROUPS.items():
        group = typer.Typer(rich_markup_mode=None, context_settings=settings)
        for function in functions:
            group.command(cls=Command, context_settings=settings)(function)
        program.add_typer(group, name=name, help=explained, no_args_is_help=True)
    return program


def main(words: list[str] | None = None) -> int:
    """Run the command line and return the exit status.

    The status is 0 after success, 2 after input that cannot be used, 130 after Ctrl-C and 1 after
    any other error.

    Args:
        words: the arguments; None for those of the process.
    """
    words = sys.argv[1:] if words is None else list(words)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal without "×" or "µ" must not end a command after its work.
            stream.reconfigure(errors="replace")
    flags = [flag for flag in GLOBAL_FLAGS if flag in words]
    words = flags + [word for word in words if word not in flags]
    with _messages(logging.WARNING if "--quiet" in flags else logging.INFO):
        try:
            for word in words:
                files.check_name(word)
            command = typer.main.get_command(_program())
            status = command(args=words, prog_name=NAME, standalone_mode=False) or 0
        except typer.TyperException as error:
            return _fail(_usage_error(error), 2)
        except InputError as error:
            if "--debug" in flags:
                raise
            return _fail(str(error), 2)
        except Exception as error:
            if "--debug" in flags:
                raise
            lines = str(error).strip().splitlines() or [""]
            reason = lines[-1] if "Traceback" in str(error) else lines[0]
            return _fail(f"{type(error).__name__}: {reason} (--debug shows the traceback)", 1)
    if status == 130:  # Typer's status after Ctrl-C
        print("stopped", file=sys.stderr)
    return status


def _fail(message, status):
    print(f"error: {message}", file=sys.stderr)
    return status


def _usage_error(error):
    """Return one line: what is wrong with the words, and which help to read."""
    message = " ".join(error.format_message().split())
    stop = "" if message.endswith((".", "?")) else "."
    context = getattr(error, "ctx", None)
    path = context.command_path if context else NAME
    return f"{message[:1].lower()}{message[1:]}{stop} See `{path} --help`."


@contextlib.contextmanager
def _messages(level: int) -> Iterator[None]:
    """Send log messages and warnings to stderr, one line each, also under `--quiet`."""
    stderr = sys.stderr
    log = logging.getLogger(NAME)
    handler = logging.StreamHandler(stderr)
    before = log.level, log.propagate
    for library in ("tensorflow", "absl"):
        # Their warnings, such as of functions that are traced again, are not about the input.
        logging.getLogger(library).setLevel(logging.ERROR)
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False  # absl adds a handler to the root, which would repeat each message
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=UserWarning, module="keras|tensorflow_datasets"
            )
            warnings.showwarning = lambda message, *_, **__: print(
                f"warning: {message}", file=stderr
            )
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
