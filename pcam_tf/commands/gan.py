"""Commands about generated patches: train a generator, write its patches, judge them."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import InputError

RunDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The folder of the generator's run. Default: the shipped generator."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="NUMBER", help="The random seed.")]


def train(
    run: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of the generator's run.")
    ] = Path("runs/gan"),
    data_dir: options.DataDir = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Only a part of the training patches, in which tumour has this prevalence.",
        ),
    ] = None,
    kimg: Annotated[
        float, typer.Option(metavar="NUMBER", help="Length, in thousands of patches seen.")
    ] = 160.0,
    side: Annotated[
        int, typer.Option(metavar="PX", help="Side of the centre that is generated.")
    ] = 48,
    seed: Seed = 0,
) -> str:
    """Train a generator of patches of each class, or resume an interrupted training."""
    from pcam_tf import data
    from pcam_tf.data import sampling
    from pcam_tf.files import check_outputs
    from pcam_tf.gan import features, patches, recipes, training

    check_outputs([run / "generator.json"])
    recipe = recipes.Recipe(kimg=kimg, side_px=side, seed=seed)
    source = options.open_source(data_dir)
    task = data.task_of(source)
    recipe.shape_for(task)
    ids = None if prevalence is None else sampling.ids_at_prevalence(source, prevalence, seed)
    read = patches.read(source, sampling.TRAIN, side, ids)
    measured = features.shipped_features(task, side)
    try:
        history = training.train(training.Run(recipe, task, read, run, measured))
    except KeyboardInterrupt:
        options.log.info("\nThe same command resumes after the last check.")
        raise
    return f"{history.to_string(index=False)}\nrun {run}: use it by gan sample --run {run}"


def sample(
    output: Annotated[Path, typer.Option(metavar="DIR", help="The data directory to make.")],
    run: RunDir = None,
    count: Annotated[
        int, typer.Option(metavar="NUMBER", help="Patches of each class that is written.")
    ] = 1000,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Only these classes. Default: all."),
    ] = None,
    seed: Seed = 0,
) -> str:
    """Write generated patches as a data directory, which train, predict and audit read."""
    from pcam_tf.files import check_outputs
    from pcam_tf.gan import generated

    check_outputs([output / "dataset"])
    run = run or generated.SHIPPED
    generator = generated.load(run)
    names = only or generator.task.classes
    generated.write(generator, output, dict.fromkeys(names, count), seed)
    return (
        f"{count} patches each of {', '.join(names)}, by the generator in {run}: use them by "
        f"--add {output}:0.3"
    )


def judge(
    generated_dir: Annotated[
        Path, typer.Option("--generated", metavar="DIR", help="What `gan sample` has written.")
    ],
    run: RunDir = None,
    data_dir: options.DataDir = None,
    output: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Also write the numbers as JSON.")
    ] = None,
) -> str:
    """Compare generated patches with real ones, and look for copies of training patches.

    KID, precision and recall use features of the package's own classifier, not Inception's. A
    generator of synthetic patches is also held against what is true of them.
    """
    import pandas as pd

    from pcam_tf import data
    from pcam_tf.evaluation import reports
    from pcam_tf.files import check_outputs, write_json
    from pcam_tf.gan import features, generated, judge, patches, truth

    run = run or generated.SHIPPED
    source = options.open_source(data_dir)
    read = [*options.input_files(source=source), *run.glob("*"), *generated_dir.rglob("*")]
    check_outputs([output], read)
    generator, task = generated.load(run), data.task_of(source)
    made = data.open_source(generated_dir)
    if generator.digest not in made.info.description:
        raise InputError(
            f"{generated_dir} holds no patches of the generator in {run}: give that generator's "
            "run by --run."
        )
    side = generator.recipe.side_px
    ids = pd.read_csv(run / "training-ids.csv", dtype=str, keep_default_na=False)["id"]
    training = patches.read(source, "train", side, ids)
    if generator.training_pixels_sha256 != training.digest:
        raise InputError(
            f"{source.data_dir} does not hold the patches that the generator in {run} was trained "
            "on: give their data directory."
        )
    sets = judge.Sets(
        patches.read(made, "train", side), training, patches.read(source, "validation", side)
    )
    found = judge.judge(
        sets, task, features.shipped_features(task, side), features.shipped_probabilities()
    )
    if output:
        write_json(output, found)
    tables = [judge.rows(found)]
    if data.is_synthetic(source):
        tables.append(truth.rows(sets.generated, source.builder_config))
    return "\n\n".join(map(reports.markdown_table, tables))


def study(
    data_dir: options.DataDir = None,
    generator: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Runs of `gan train --prevalence`, one for each prevalence that has a generator.",
        ),
    ] = None,
    fine_tuned: Annotated[
        bool,
        typer.Option(
            "--fine-tuned",
            help="Train whole networks by the main remedies, about 90 minutes, instead of heads "
            "on frozen features.",
        ),
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder of the study, in which it resumes. Default: runs/gan-study, or "
            "runs/gan-study-fine-tuned.",
        ),
    ] = None,
    side: Annotated[
        int, typer.Option(metavar="PX", help="Side of the centre that all classifiers see.")
    ] = 48,
    figure: options.Figure = None,
) -> str:
    """Ask whether generated patches help more than class weights, focal loss or oversampling.

    The prevalence of tumour in training is 1, 5 and 20 %. Networks begin with ImageNet weights.
    """
    from pcam_tf import data, figures
    from pcam_tf.evaluation import reports
    from pcam_tf.figures import remedy_plots
    from pcam_tf.files import check_outputs, written_whole
    from pcam_tf.gan import features, fine_tuned_remedies, generated, study, study_tables

    run = run or Path("runs") / f"gan-study{'-fine-tuned' * fine_tuned}"
    read = [file for each in generator or () for file in each.glob("*")]
    check_outputs([run / "study.json", figure], read)
    source = options.open_source(data_dir)
    generators = [generated.load(each) for each in generator or ()]
    preset = "smoke" if data.is_synthetic(source) else "cpu"
    way = (
        {"recipe": fine_tuned_remedies.recipe_of(preset, side)}
        if fine_tuned
        else {"features": features.imagenet_features(side)}
    )
    asked = study.Study(source, run, side, **way)
    texts = []
    for split, tables in study.run(asked, generators).items():
        found = study_tables.results(tables)
        with written_whole(run / f"results-{split}.csv") as temporary:
            found.to_csv(temporary, index=False, float_format="%.5f")
        texts.append(f"{split}\n{reports.markdown_table(study_tables.table_rows(found))}")
    if figure:  # of the last split, which is the test split
        drawn = remedy_plots.sensitivity_by_prevalence(found, study_tables.MAIN_METRIC)
        figures.save(drawn, figure)
    return "\n\n".join([*texts, f"study {run}"])
