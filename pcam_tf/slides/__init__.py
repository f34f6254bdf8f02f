"""Regions of slides: tissue mask, heat map."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[],
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
