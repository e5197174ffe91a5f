"""Distil BERT-family models: a fine-tuned teacher and text in, a small fast student and a report out.

The public names are declared in ``__init__.pyi``; each is imported when it is first asked for.
"""

import lazy_loader

from tutelage.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
