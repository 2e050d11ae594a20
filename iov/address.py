"""Sans-IO. Where a view's bytes lie in this process: the virtual address that alignment, page counts and pins need.

Owns no memory and keeps no reference to any. Addresses differ from run to run: decisions that a simulation must repeat do not
hang on them.
"""

import ctypes
import mmap

__all__ = ["address_of", "overlap", "spans_overlap"]

OWNERS = (bytearray, mmap.mmap)
"""Each object of these has memory of its own, which cannot be said of every exporter of buffers."""


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


def overlap(pieces: list[tuple[memoryview, int, int]]) -> bool:
    """Tell whether two (view, offset, length) of writable views share a byte, be it by different views of it.

    Views of different objects that own their memory cost no look at addresses.
    """
    views = {id(view): view for view, _, _ in pieces}
    owners = {id(view.obj) for view in views.values() if type(view.obj) in OWNERS}
    if len(owners) < len(views):
        bases = {key: address_of(view) for key, view in views.items()}
        return spans_overlap([(bases[id(view)] + off, length) for view, off, length in pieces])
    if len(views) == len(pieces):
        return False
    places: dict[int, list[tuple[int, int]]] = {}
    for view, off, length in pieces:
        places.setdefault(id(view), []).append((off, length))
    return any(spans_overlap(spans) for spans in places.values())


def spans_overlap(spans: list[tuple[int, int]]) -> bool:
    """Tell whether two (start, length) share a byte."""
    end = 0
    for start, length in sorted(spans):
        if length:
            if start < end:
                return True
            end = start + length
    return False
