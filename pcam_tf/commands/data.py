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
    """Make a data directory from official HDF5 files, from BreakHis or by download."""
    from pcam_tf import data, files
    from pcam_tf.data import breakhis as fields
    from pcam_tf.data import hdf5

    if sum((from_hdf5 is not None, breakhis is not None, download)) != 1:
        raise InputError("give one of --from-hdf5 DIR, --breakhis DIR and --download.")
    chosen = data.chosen_dir(data_dir)
    if chosen is None:
        raise InputError("no folder for the prepared data: give --data-dir DIR.")
    # Before hours of reading or downloading.
    files.check_outputs([Path(chosen) / "dataset"])
    if download:
        data.download(chosen)
    elif breakhis is not None:
        fields.prepare(breakhis, chosen)
    else:
        hdf5.prepare_from_hdf5(from_hdf5, chosen, verify_checksums=verify_checksums)
    return f"prepared {chosen}: use it by --data-dir {chosen} or PCAM_TF_DATA_DIR={chosen}"


def audit(
    data_dir: options.DataDir = None,
    output: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Also write the audit as JSON.")
    ] = None,
) -> str:
    """Count classes, duplicates, leaks and blank patches."""
    from pcam_tf import data
    from pcam_tf.data import audit
    from pcam_tf.files import check_outputs, write_json

    source = options.open_source(data_dir)
    check_outputs([output], options.input_files(source=source))
    splits = [split for split in data.SPLITS if split in source.info.splits]
    counted = audit.audit(
        {split: data.arrays(data.batches(source, split, batch_size=256)) for split in splits},
        data.task_of(source),
    )
    if output:
        write_json(output, counted)
    return audit.format_audit(counted)
