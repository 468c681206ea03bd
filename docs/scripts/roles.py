"""A griffe extension: turns the docstrings' reST roles into Markdown code."""

import re

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|attr):`~?([^`]+)`")
LITERAL_BLOCK = re.compile(r"::$", re.M)


class Roles(griffe.Extension):
    """Rewrites each docstring once, when its object has been read."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """``:class:`X` `` becomes ``X``; the ``::`` before an indented block becomes a colon."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = LITERAL_BLOCK.sub(":", text)
