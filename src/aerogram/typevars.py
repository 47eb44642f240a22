"""The type variables that `App`, `Session` and `Group` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    StateT = TypeVar("StateT", default=Any)
    DepsT = TypeVar("DepsT", default=Any)
else:
    from typing import TypeVar

    StateT = TypeVar("StateT")
    DepsT = TypeVar("DepsT")
