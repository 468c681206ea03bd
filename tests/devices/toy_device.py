"""A private backend, ``toy``: a device other than CPU and CUDA. CPU tensors hold its values."""

import functools

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("toy")

_as_strided = torch.ops.aten.as_strided.default
_memory = {}  # toy storage's address -> flat CPU tensor, and the storage, which must not be freed


def _is_toy(x):
    return isinstance(x, torch.Tensor) and x.device.type == "toy"


def _values(x):
    """Returns the CPU tensor behind a toy tensor, the CPU for a device, anything else unchanged."""
    if isinstance(x, torch.device):
        return torch.device("cpu")
    if not _is_toy(x):
        return x
    flat, _ = _memory[x.untyped_storage()._cdata]
    return flat.as_strided(x.shape, x.stride(), x.storage_offset())


def _view(toy, like):
    """Returns a view of the toy tensor's storage with the sizes and strides of ``like``."""
    key = torch._C.DispatchKey.Meta  # this kernel makes views on any device
    return _as_strided._op_dk(key, toy, like.shape, like.stride(), like.storage_offset())


def _new(values):
    """Returns a toy tensor that takes over a CPU tensor's memory."""
    flat = values.as_strided((values.untyped_storage().nbytes() // values.itemsize,), (1,), 0)
    toy = torch._C._acc.create_empty_tensor(flat.shape, flat.dtype)
    _memory[toy.untyped_storage()._cdata] = flat, toy.untyped_storage()
    return _view(toy, values)


def _run_on_cpu(op, *args, **kwargs):
    """Runs any operation on the CPU tensors; results in place and views share the toy tensors' memory."""
    leaves, _ = pytree.tree_flatten((args, kwargs))
    toys = [x for x in leaves if _is_toy(x)]
    values = {id(x): _values(x) for x in toys}
    by_memory = {x.untyped_storage().data_ptr(): toy for toy, x in zip(toys, values.values())}
    given = {id(values[id(toy)]): toy for toy in toys}

    def on_cpu(x):
        return values[id(x)] if id(x) in values else _values(x)

    args, kwargs = pytree.tree_map(on_cpu, (args, kwargs))

    def as_toy(x):
        if id(x) in given:
            return given[id(x)]
        toy = by_memory.get(x.untyped_storage().data_ptr()) if x.numel() else None
        return _new(x) if toy is None else _view(toy, x)

    return pytree.tree_map_only(torch.Tensor, as_toy, op(*args, **kwargs))


def _copy(source, target, non_blocking=False):
    _values(target).copy_(_values(source))
    return target


_libraries = [torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")]
_libraries[0].fallback(_run_on_cpu, "PrivateUse1")
_libraries[1].impl("_copy_from", _copy, "PrivateUse1")
for _name in ("arange", "arange.start", "arange.start_step"):
    # torch's kernel would resize an empty toy tensor.
    _overload = getattr(torch.ops.aten.arange, _name.partition(".")[2] or "default")
    _libraries[1].impl(_name, functools.partial(_run_on_cpu, _overload), "PrivateUse1")
