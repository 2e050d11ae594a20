# The part of perfetto this project uses: fields of generated messages, of which the package has many more.

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

_T = TypeVar("_T")

class _Messages(Protocol[_T]):
    def add(self) -> _T: ...
    def __iter__(self) -> Iterator[_T]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> _T: ...

class _Scalars(Protocol):
    def extend(self, values: Iterable[int]) -> None: ...
    def __iter__(self) -> Iterator[int]: ...
    def __len__(self) -> int: ...

class _Texts(Protocol):
    def append(self, value: str) -> None: ...

class DebugAnnotation:
    name: str
    int_value: int
    string_value: str

class ProcessDescriptor:
    pid: int
    process_name: str

class CounterDescriptor:
    unit_name: str

class TrackDescriptor:
    EXPLICIT: int
    uuid: int
    parent_uuid: int
    name: str
    child_ordering: int
    sibling_order_rank: int
    @property
    def process(self) -> ProcessDescriptor: ...
    @property
    def counter(self) -> CounterDescriptor: ...
    def HasField(self, name: str) -> bool: ...  # noqa: N802

class TrackEvent:
    TYPE_SLICE_BEGIN: int
    TYPE_SLICE_END: int
    TYPE_INSTANT: int
    TYPE_COUNTER: int
    type: int
    track_uuid: int
    counter_value: int
    name: str
    @property
    def categories(self) -> _Texts: ...
    @property
    def flow_ids(self) -> _Scalars: ...
    @property
    def debug_annotations(self) -> _Messages[DebugAnnotation]: ...

class TracePacket:
    SEQ_INCREMENTAL_STATE_CLEARED: int
    timestamp: int
    trusted_packet_sequence_id: int
    sequence_flags: int
    @property
    def track_descriptor(self) -> TrackDescriptor: ...
    @property
    def track_event(self) -> TrackEvent: ...
    def HasField(self, name: str) -> bool: ...  # noqa: N802

class Trace:
    @property
    def packet(self) -> _Messages[TracePacket]: ...
    @classmethod
    def FromString(cls, data: bytes) -> Trace: ...  # noqa: N802
