"""Registrations with torch's dispatcher, each made once in a process.

The dispatcher outlives this package: a second import, after it left ``sys.modules``, finds the ops registered.
"""

import torch

# Kept where the ops are, not here: this module may be imported again too.
_done = vars(torch.ops.rnnfused).setdefault("_registered_from_python", set())


def once(register):
    """Wraps ``register(name, ..)``, a function or a maker of decorators: registered names are skipped."""

    def call(name, *arguments, **keywords):
        device = arguments[0] if arguments and isinstance(arguments[0], str) else None
        key = (register.__name__, str(name), device)
        if key in _done:
            return lambda function: function  # as a decorator
        result = register(name, *arguments, **keywords)
        _done.add(key)
        return result

    return call


define = once(torch.library.define)
impl = once(torch.library.impl)
register_autograd = once(torch.library.register_autograd)
register_fake = once(torch.library.register_fake)
register_vmap = once(torch.library.register_vmap)
