"""Slides and regions of them: reader, tissue mask, heat map, FROC."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["reader"],
    submod_attrs={
        "regions": [
            "BATCH_SIZE",
            "affordable_stride",
            "covered_cells",
            "has_tissue",
            "heat_map",
            "patch_around",
            "strides_px",
            "tissue_mask",
        ]
    },
)
