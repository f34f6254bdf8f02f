"""The command that serves the web page."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import missing_extra


def app(
    model: options.Model = None,
    engine: options.Engine = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="0 for any free one.")
    ] = 7860,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="USER:FILE",
            help="Ask for this user and the password in FILE. Needed if others can reach the host.",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name by which others reach the page, such as that of a reverse proxy.",
        ),
    ] = None,
    reviews: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Append what reviewers accept and correct to this file."),
    ] = None,
    slides: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Let visitors open and read the slides in this folder. Results are kept in "
            "DIR/pcam_tf_results.",
        ),
    ] = None,
) -> None:
    """Serve the web page for pathologists."""
    from pcam_tf.app import serve
    from pcam_tf.files import check_outputs

    # Before the model is loaded, which takes a while.
    if importlib.util.find_spec("gradio") is None:
        raise missing_extra("gradio", "app")
    user_and_password = serve.login(auth, host)
    password = [auth.partition(":")[2]] if auth else []
    check_outputs([reviews], [*options.input_files(models=[model]), *password])

    with serve.listen(host, port) as listening:
        from pcam_tf.app import findings, page

        built = page.build(findings.load_reader(model, engine), reviews, slides)
        serve.serve(built, listening=listening, auth=user_and_password, names=name or ())
