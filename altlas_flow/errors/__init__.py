"""Every error that altlas_flow raises on purpose.

::

    AltlasError
    ├── SettingsError            a setting has a value that cannot be used
    ├── ModelError
    │   ├── SpecError            a model spec or a catalog file is wrong
    │   ├── UnknownModel         no model of that id is registered
    │   ├── ModelConflict        the id is taken by another recipe
    │   ├── ModelLoadError       a worker could not load the model
    │   ├── UnsafeModel          the weights need pickle or remote code
    │   ├── ParameterError       the runtime does not know a parameter
    │   └── PredictError         the model failed on an input
    ├── InputError
    │   ├── MissingColumn        the input has no such column
    │   ├── EmptyInput           the input has no rows
    │   ├── NothingPredicted     every row became a dead letter
    │   ├── SourceError          a source file cannot be found or read
    │   │   └── FileRefused      a file may not be read as an input
    │   └── BadRow               one row is at fault (``on_error="raise"``)
    ├── RequestError
    │   ├── BadRequest           a field of a request is wrong
    │   ├── DeadlineExceeded     the request was not answered in time
    │   ├── RequestCancelled     the request was cancelled
    │   ├── Overloaded           too much waits already (``altlas.overload: raise``)
    │   ├── StreamBroken         what was streamed of the answer is not how it begins
    │   ├── InvalidAnswer        the answer did not pass the request's validator
    │   ├── StageFailed          a stage of a pipeline failed: the first one that did
    │   └── AggregationError     several answers give no verdict
    │       ├── NoQuorum             too few models answered
    │       ├── Uncombinable         answers of other types, shapes or labels
    │       └── AggregationFailed    an aggregator, or a function given to one, raised
    ├── PipelineError            a pipeline cannot be run as it is written
    ├── SelectionError           what was asked of a selector, or told to it, is wrong
    │   ├── FeatureError         a feature of an input cannot be used
    │   ├── NothingServes        no model does that task
    │   ├── NoModelFits          every model is excluded: it says by what
    │   ├── ReplayError          a log of decisions cannot be replayed
    │   ├── StateError           what was learned cannot be read
    │   └── UnknownDecision      no decision of that id is known
    ├── TargetUnreachable        no threshold of a cascade gives the share or quality that is wished for
    ├── OutputError
    │   ├── OutputNotWritable    the folder cannot be written (rights, full disk)
    │   ├── OutputLocked         another job works on the folder
    │   ├── OutputMismatch       the folder holds something else
    │   └── HistoryError         the history file cannot be used
    └── ClusterError
        ├── ConnectError         no cluster could be reached or started
        ├── CertificateError     a certificate cannot be made, read or used
        ├── Exposed              a cluster would be open to others without TLS
        ├── Forbidden            the certificate's role does not allow it
        ├── UnknownNode          no node of that name is known
        ├── UnknownTask          no task of that id is known
        ├── VersionMismatch      a scheduler or worker runs another altlas_flow
        ├── NoEligibleNode       no worker can serve the model
        ├── ClusterLost          the scheduler or all workers went away
        ├── NodeLost             the worker died, or fell silent, while it had the request
        └── HostClosed           the worker is shutting down
            └── NodeFault        the node failed at a stage of a pipeline

The message is always one line that says what to do. Every error pickles: what its constructor takes
is its ``args``. The error of a request knows its ``tries``, the ``nodes`` they were made on, and its
``root_cause``.
"""

from __future__ import annotations

from altlas_flow.errors.base import AltlasError, SettingsError, describe, located
from altlas_flow.errors.cluster import (
    CertificateError,
    ClusterError,
    ClusterLost,
    ConnectError,
    Exposed,
    Forbidden,
    HostClosed,
    NodeLost,
    NoEligibleNode,
    UnknownNode,
    UnknownTask,
    VersionMismatch,
)
from altlas_flow.errors.data import (
    BadRow,
    EmptyInput,
    FileRefused,
    HistoryError,
    InputError,
    MissingColumn,
    NothingPredicted,
    OutputError,
    OutputLocked,
    OutputMismatch,
    OutputNotWritable,
    SourceError,
)
from altlas_flow.errors.models import (
    ModelConflict,
    ModelError,
    ModelLoadError,
    ParameterError,
    PredictError,
    SpecError,
    UnknownModel,
    UnsafeModel,
)
from altlas_flow.errors.pipelines import NodeFault, PipelineError, StageFailed, TargetUnreachable
from altlas_flow.errors.requests import (
    AggregationError,
    AggregationFailed,
    BadRequest,
    DeadlineExceeded,
    InvalidAnswer,
    NoQuorum,
    Overloaded,
    RequestCancelled,
    RequestError,
    StreamBroken,
    Uncombinable,
)
from altlas_flow.errors.selection import (
    FeatureError,
    NoModelFits,
    NothingServes,
    ReplayError,
    SelectionError,
    StateError,
    UnknownDecision,
)
from altlas_flow.errors.words import kinds_of, names, one_line, root_cause, text_of

__all__ = [
    "AggregationError",
    "AggregationFailed",
    "AltlasError",
    "BadRequest",
    "BadRow",
    "CertificateError",
    "ClusterError",
    "ClusterLost",
    "ConnectError",
    "DeadlineExceeded",
    "EmptyInput",
    "Exposed",
    "FeatureError",
    "FileRefused",
    "Forbidden",
    "HistoryError",
    "HostClosed",
    "InputError",
    "InvalidAnswer",
    "MissingColumn",
    "ModelConflict",
    "ModelError",
    "ModelLoadError",
    "NoEligibleNode",
    "NoModelFits",
    "NoQuorum",
    "NodeFault",
    "NodeLost",
    "NothingPredicted",
    "NothingServes",
    "OutputError",
    "OutputLocked",
    "OutputMismatch",
    "OutputNotWritable",
    "Overloaded",
    "ParameterError",
    "PipelineError",
    "PredictError",
    "ReplayError",
    "RequestCancelled",
    "RequestError",
    "SelectionError",
    "SettingsError",
    "SourceError",
    "SpecError",
    "StageFailed",
    "StateError",
    "StreamBroken",
    "TargetUnreachable",
    "Uncombinable",
    "UnknownDecision",
    "UnknownModel",
    "UnknownNode",
    "UnknownTask",
    "UnsafeModel",
    "VersionMismatch",
    "describe",
    "kinds_of",
    "located",
    "names",
    "one_line",
    "root_cause",
    "text_of",
]
