# The part of fsspec.callbacks this project uses.

class Callback:
    def set_size(self, size: int) -> None: ...
    def relative_update(self, inc: int = ...) -> None: ...

DEFAULT_CALLBACK: Callback
