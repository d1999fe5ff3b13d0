"""Running recipes; see run.py for how, and layout.py for what is made."""

from jaxllm.lazy_names import lazy_names

_FILE_OF = {"Prepared": "run", "Watcher": "run", "open_prepared": "run", "prepare": "run"}

__all__ = list(_FILE_OF)
__getattr__, __dir__ = lazy_names(globals(), {name: f"{__name__}.{file}" for name, file in _FILE_OF.items()})
