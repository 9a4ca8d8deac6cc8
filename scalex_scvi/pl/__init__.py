"""Plots, by scanpy's conventions.

One rule for all:

``show``
    ``True`` shows the figure and returns ``None``, so that a notebook does not draw it twice.
    ``False`` shows nothing and returns the :class:`~matplotlib.figure.Figure`, which pyplot no
    longer holds: nothing is left open. ``None``, the default, follows ``scanpy.settings.autoshow``,
    which is true unless it was changed. :func:`confusion` returns its scores in any case.
``save``
    Path with the suffix of its format (``"umap.pdf"``), or several paths. Written exactly there,
    whole or not at all; the folder must exist. Independent of ``show``.
``ax``
    Axes to draw in, where a plot has one panel. Their figure stays the user's: it is neither closed
    nor resized.
Colors
    The argument, else ``adata.uns[f"{key}_colors"]``, else, for transferred labels, those of the
    labels that they come from, else scanpy's palettes of 20, 28 or 102 colors. A color belongs to a
    name: :func:`store_colors` decides them once for several pictures, as each run does for its
    own. Cells without a category are gray, those called ``"unknown"`` a darker gray.

No picture changes ``adata`` or matplotlib's settings. Many points are rasterized in vector files.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
