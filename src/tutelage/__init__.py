"""Distil BERT-family models: a fine-tuned teacher and text in, a small fast student and a report out.

The public names are declared in ``__init__.pyi``; each is imported when it is first asked for.
"""

import os

import lazy_loader

from tutelage.version import __version__ as __version__

# oneDNN compiles kernels for each shape of texts and keeps 1,024 of them, its wrapper in torch as many: megabytes each, and rarely
# used again. Read when torch loads.
if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
