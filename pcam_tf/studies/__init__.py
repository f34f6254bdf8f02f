"""Questions asked of a trained model: protocols, robustness, novelty, hard tissue."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["hard_tissue", "novelty", "protocol_results", "protocols", "robustness"],
)
