"""Commands about data: make a data directory, audit one."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import InputError


def prepare(
    from_hdf5: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder of camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5, "
            "plain or .gz.",
        ),
    ] = None,
    from_images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder of labelled pictures: with --labels, in folders named after their "
            "classes, or as Kaggle's Histopathologic Cancer Detection or Camelyon17-WILDS.",
        ),
    ] = None,
    from_parquet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="PatchCamelyon as parquet files (image, label)."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="The labels of --from-images: id or path, label, and perhaps split, group "
            "(slide or patient), hospital.",
        ),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Draw the splits of --from-images by group, or by picture, which leaks. "
            "Default: as given, or all in train.",
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="FLOAT",
            help="Microns per pixel of --from-images. Default: as stated in each file, or the "
            "task's.",
        ),
    ] = None,
    breakhis: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder of the BreakHis archive, for the command subtypes."
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download 7.5 GB with TensorFlow Datasets.")
    ] = False,
    data_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The folder to make patch_camelyon/2.0.0 in. Default: PCAM_TF_DATA_DIR.",
        ),
    ] = None,
    verify_checksums: Annotated[
        bool,
        typer.Option(
            "--verify-checksums", help="Compare the .gz files to the published SHA-256 digests."
        ),
    ] = False,
) -> str:
    """Make a data directory from files that you have, or by download."""
    from pcam_tf import data, files
    from pcam_tf.data import breakhis as fields
    from pcam_tf.data import hdf5, parquet, picture_folders

    folders = (from_hdf5, from_images, from_parquet, breakhis)
    if sum(folder is not None for folder in folders) + download != 1:
        raise InputError(
            "give one of --from-hdf5 DIR, --from-images DIR, --from-parquet DIR, --breakhis DIR "
            "and --download."
        )
    if from_images is None and (labels or split_by or mpp is not None):
        raise InputError("--labels, --split-by and --mpp are about --from-images: give it too.")
    if verify_checksums and from_hdf5 is None:
        raise InputError("--verify-checksums is about --from-hdf5: give it too.")
    chosen = data.chosen_dir(data_dir)
    if chosen is None:
        raise InputError("no folder for the prepared data: give --data-dir DIR.")
    # Before hours of reading or downloading.
    files.check_outputs([Path(chosen) / "dataset"])
    made = ""
    if download:
        data.download(chosen)
    elif from_images is not None:
        options_of = {"labels": labels, "split_by": split_by, "mpp": mpp}
        made = picture_folders.prepare(from_images, chosen, **options_of) + "\n"
    elif from_parquet is not None:
        parquet.prepare(from_parquet, chosen)
    elif breakhis is not None:
        fields.prepare(breakhis, chosen)
    else:
        hdf5.prepare_from_hdf5(from_hdf5, chosen, verify_checksums=verify_checksums)
    return f"{made}prepared {chosen}: use it by --data-dir {chosen} or PCAM_TF_DATA_DIR={chosen}"


def audit(
    data_dir: options.DataDir = None,
    output: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Also write the audit as JSON.")
    ] = None,
) -> str:
    """Count classes, duplicates, leaks, blank patches and, where known, slides."""
    from pcam_tf import data
    from pcam_tf.data import audit, audit_text
    from pcam_tf.files import check_outputs, write_json

    source = options.open_source(data_dir)
    check_outputs([output], options.input_files(source=source))
    splits = data.ordered(source.info.splits)
    groups = data.groups_of(source)
    counted = audit.audit(
        {split: data.arrays(data.batches(source, split, batch_size=256)) for split in splits},
        data.task_of(source),
        None if groups is None else groups["group"],
    )
    if output:
        write_json(output, counted)
    return audit_text.format_audit(counted)
