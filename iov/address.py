"""Sans-IO. Where a view's bytes lie in this process: the virtual address that alignment, page counts and pins need.

Owns no memory and keeps no reference to any. Addresses differ from run to run: decisions that a simulation must repeat do not
hang on them.
"""

import ctypes

__all__ = ["address_of", "overlap"]


class _PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_char_at = ctypes.c_char.from_buffer
_address = ctypes.addressof


def address_of(view: memoryview) -> int:
    """Return the address of the view's first byte; 0 for an empty view."""
    if not len(view):
        return 0
    if not view.readonly:
        return _address(_char_at(view))
    raw = _PyBuffer()
    _get_buffer(view, ctypes.byref(raw), 0)
    try:
        return int(raw.buf)
    finally:
        _release_buffer(ctypes.byref(raw))


def overlap(views: list[memoryview]) -> bool:
    """Tell whether two of the (writable) views share a byte; views of distinct objects cost no look at addresses."""
    owners = {id(view.obj) for view in views}
    if len(owners) == len(views):
        return False
    spans = sorted((address_of(view), len(view)) for view in views if len(view))
    end = 0
    for start, length in spans:
        if start < end:
            return True
        end = start + length
    return False
