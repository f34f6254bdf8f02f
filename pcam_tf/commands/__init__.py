"""The command line: one module for each group of commands. Each command parses, calls, prints."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"command_line": ["main"]}
)
